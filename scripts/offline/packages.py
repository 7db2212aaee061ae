"""Files of packages that are unpacked, not installed: Debian's by apt-get, JavaScript's by npm."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

UNPACKED = Path("runs/packages")


class Missing(Exception):
    """A package cannot be had here; says why."""


def debian(name: str) -> Path:
    """Return the folder of a Debian package's files, fetched if it is not there."""
    folder = UNPACKED / f"debian-{name}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            _run(["apt-get", "download", name], temporary)
            (file,) = Path(temporary).glob("*.deb")
            _run(["dpkg-deb", "-x", str(file), str(folder.absolute())], temporary)
    return folder


def javascript(name: str) -> Path:
    """Return the folder of a package of npm, fetched if it is not there; nothing of it is run."""
    folder = UNPACKED / f"npm-{name.replace('/', '-')}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            _run(["npm", "pack", "--silent", name], temporary)
            (file,) = Path(temporary).glob("*.tgz")
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
    return folder / "package"


def _run(command: list[str], folder: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise Missing(f"there is no {command[0]} here") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no reason given"]
        raise Missing(f"{' '.join(command)}: {lines[-1]}") from None
