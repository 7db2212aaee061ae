"""Folders and files written under another name and renamed when complete: no reader meets half of one."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from saft.errors import UserError
from saft.files.temporary_names import ASIDE, leftovers, remove, sibling

__all__ = [
    "refuse",
    "refuse_file",
    "replaced",
    "staged",
    "sync",
    "telling_a_full_disk",
    "write_text",
]

_HERE, _RENAME_EXCHANGE = -100, 2  # of renameat2(2); absolute paths, so that the first does not matter
_OF_A_MODEL = ("saft.json", "config.json", "adapter_config.json", "*.safetensors")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def staged(
    target: str | Path, overwrite: bool = False, goes_on_with: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that takes its name once the block has ended well.

    Everything is flushed to disk before the renaming, so `target` is complete or absent, also after a loss of
    power. On any exception (an interrupt too) nothing is left; what a killed process left, the next removes,
    or gives its name back where it is the folder that was being replaced.

    Args:
        target: the folder to make; its parents are made too.
        overwrite: replace a folder that is there and is not empty.
        goes_on_with: called with what a killed process has left; where it says yes, that is the temporary
            folder, as it is. Default: what was left is removed.

    Yields:
        The temporary folder, to be filled.

    Raises:
        UserError: `target` is a file, a non-empty folder and `overwrite` is False, or in a place where none
            can be made; or the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model"
        >>> with staged(target) as folder:
        ...     _ = (folder / "config.json").write_text("{}")
        >>> [file.name for file in target.iterdir()]
        ['config.json']
    """
    target = Path(os.path.realpath(target))
    left = _clear_leftovers(target, goes_on_with)
    refuse(target, overwrite)
    temporary = sibling(target)
    try:
        with telling_a_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _renamed(left, temporary):
                temporary.mkdir()
            yield temporary
            # Some writers make files only for the owner (0600); the folder was made under the user's umask.
            mode = temporary.stat().st_mode & 0o666
            for file in _files(temporary):
                file.chmod(mode)
            _flush(temporary)
            refuse(target, overwrite)
            _exchange(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file` that takes its name, and its place, once the block has ended well.

    The path is this process's own: another, on another machine too, may be writing the same file.

    Args:
        file: the file to make; its parents are made too. Of a link it is what the link leads to.

    Yields:
        The temporary path.

    Raises:
        UserError: the disk is full.
    """
    file = Path(os.path.realpath(file))
    temporary = sibling(file)
    try:
        with telling_a_full_disk(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(file)
            yield temporary
            sync(temporary)
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def telling_a_full_disk(target: Path) -> Iterator[None]:
    """Say what could not be written, and what to do, where the disk is full: the system only says that.

    Args:
        target: what the block writes, and leaves nothing of where it fails.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code not in _FULL:
            raise
        raise UserError(
            f"{target}: could not be written: {os.strerror(code)}; nothing of it is left; "
            "make room, or choose a folder on another disk"
        ) from error


def _code(error: Exception) -> int:
    """Return the system's number of what went wrong, 0 where it is nothing of the system's."""
    cause = error.__cause__ if isinstance(error, UserError) else error  # which told of a file within
    if isinstance(cause, OSError):
        return cause.errno or 0
    # What the library safetensors raises is no OSError; it ends with the number.
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told[1]) if told else 0


def write_text(file: Path, text: str) -> None:
    """Write a text file that is complete or absent: UTF-8, lines ended only by a newline.

    Args:
        file: the file to make or replace; its parents are made too.
        text: its content.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "figures" / "a.json"
        >>> write_text(file, "{}")
        >>> file.read_text()
        '{}'
    """
    with replaced(file) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


def write_shared(file: Path, content: bytes) -> None:
    """Write a file that is complete or absent, and that other processes may be writing too.

    Args:
        file: the file to make or replace; its parents are made too.
        content: the same of every process.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def refuse(target: Path, overwrite: bool) -> None:
    """Refuse a target that `staged` would not write: a file, a folder in use, or one that cannot be made.

    Only a model is replaced: not a device, and no folder of other things, which a slip of the keyboard names.

    Args:
        target: the folder to make.
        overwrite: replace a model's folder that is there.

    Raises:
        UserError: with the reason.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; give the name of a folder to write")
    _refuse_above(target)
    if not target.is_dir():
        return
    if not any(target.iterdir()):
        if target.samefile("."):
            raise UserError(
                f"{target}: is the folder that you are in, and another would take its place; go one up"
            )
        return
    if not overwrite:
        raise UserError(f"{target}: is not empty; choose another folder, or replace it with --overwrite")
    if target.resolve() in (Path.home(), Path.cwd(), *Path.cwd().parents):
        raise UserError(f"{target}: holds more than a checkpoint and is not replaced; choose another folder")
    if not any(any(target.glob(pattern)) for pattern in _OF_A_MODEL):
        raise UserError(
            f"{target}: holds no model ({', '.join(_OF_A_MODEL)}) and is not replaced; empty it first, or "
            "choose another folder"
        )


def refuse_file(file: Path) -> None:
    """Refuse a file that `write_text` could not write, before there is anything to write.

    Args:
        file: the file to make or replace.

    Raises:
        UserError: it is a folder or a device, or it cannot be made.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder; give the name of a file to write")
    if file.exists() and not file.is_file():
        raise UserError(
            f"{file}: is a device or a pipe, and is not replaced; give the name of a file to write"
        )
    _refuse_above(file)


def _refuse_above(target: Path) -> None:
    place = target.absolute()
    above = next((parent for parent in place.parents if parent.exists()), place)
    if not above.is_dir():
        raise UserError(f"{target}: cannot be made, since {above} is a file; choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"{target}: cannot be made, since {above} may not be written to; choose another folder"
        )


def _clear_leftovers(target: Path, goes_on_with: Callable[[Path], bool] | None = None) -> Path | None:
    """Clear what processes of this machine that are no more have left, but for what is gone on with."""
    kept = None
    for entry in leftovers(target):
        if entry.name.endswith(ASIDE):
            if target.exists():
                remove(entry)
            else:
                entry.rename(target)  # it was put aside, and what should have replaced it never came
        elif kept is None and goes_on_with is not None and goes_on_with(entry):
            kept = entry
        else:
            remove(entry)
    return kept


def _renamed(folder: Path | None, name: Path) -> bool:
    """Give a folder another name; False where there is none, or another process was faster."""
    try:
        if folder is not None:
            folder.rename(name)
        return folder is not None
    except FileNotFoundError:
        return False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _flush(folder: Path) -> None:
    for path in [*_files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk before going on.

    Args:
        path: of either.
    """
    if os.name != "posix" and path.is_dir():
        return  # only POSIX can open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
        return
    aside = temporary
    if not _swapped(temporary, target):
        aside = temporary.with_name(temporary.name + ASIDE)
        target.rename(aside)
        try:
            temporary.rename(target)
        except BaseException:
            aside.rename(target)
            raise
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _swapped(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, if the system can: Linux, on most file systems."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0)
