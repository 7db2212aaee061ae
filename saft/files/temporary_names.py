"""What a file or folder is called until it is complete: no two processes write under one name."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from saft.files.processes import born

__all__ = ["ASIDE", "left_behind", "leftovers", "remove", "sibling"]

ASIDE = "-old"  # ends the name of a folder that another is about to replace
_LONGEST = 100  # bytes of a target's name that are in the temporary one: disks take 255 in all


def sibling(target: Path) -> Path:
    """Return a name beside a target that no other process uses, nor this one a second time.

    Args:
        target: a file or a folder.

    Example:
        >>> sibling(Path("runs/news")) != sibling(Path("runs/news"))
        True
    """
    process = os.getpid()
    return target.parent / f"{_mark(target)}{process}-{born(process)}-{secrets.token_hex(4)}"


def left_behind(target: str | Path) -> Iterator[Path]:
    """Yield the temporary folders that processes of this machine that are no more have left for a target.

    Args:
        target: of `saft.files.staging.staged`.
    """
    for entry in leftovers(Path(os.path.realpath(target))):
        if not entry.name.endswith(ASIDE):
            yield entry


def leftovers(target: Path) -> Iterator[Path]:
    """Yield what `left_behind` does, and the folders that were put aside for what never came.

    Args:
        target: without links.
    """
    mark = _mark(target)
    there = os.listdir(target.parent) if os.name == "posix" and target.parent.is_dir() else ()
    for name in sorted(name for name in there if name.startswith(mark)):
        process, _, rest = name.removeprefix(mark).partition("-")
        # The process has ended; its number may be another's now.
        if process.isdigit() and born(int(process)) != rest.partition("-")[0]:
            yield target.parent / name


def remove(entry: Path) -> None:
    """Remove a temporary file or folder, as far as that is possible.

    Args:
        entry: of either.
    """
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _mark(target: Path) -> str:
    """Return how the names begin of what this machine writes for a target."""
    name = os.fsencode(target.name)
    short = target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()
    return f".{short}.saft-{socket.gethostname()}-"
