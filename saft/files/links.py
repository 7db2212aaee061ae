"""Files of a folder that someone else made: none is read through a link or a name that leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

from saft.errors import UserError

__all__ = ["inside"]


def inside(folder: Path, name: str | Path) -> Path:
    """Return a file of a folder, after a look at where it really lies.

    The hub's cache keeps the files of a snapshot as links to `blobs` two folders above: these are followed.

    Args:
        folder: that was given by the user; it may itself be a link.
        name: of the file, or its path below the folder.

    Raises:
        UserError: the name or a link leads out of the folder.

    Example:
        >>> inside(Path("model"), "../secret")
        Traceback (most recent call last):
        saft.errors.UserError: model/../secret: leads out of its folder, to ...
    """
    file = folder / name
    home, target = Path(os.path.realpath(folder)), Path(os.path.realpath(file))  # which take a loop of links
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise UserError(
            f"{file}: leads out of its folder, to {target}; nothing is read through links out of a "
            "model's folder: put a copy in its place"
        )
    return file
