"""One process at a time in a folder: the second is told who the first is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from saft.errors import UserError
from saft.files.processes import born
from saft.files.staging import telling_a_full_disk

with suppress(ImportError):  # Windows has none, and so no lock
    import fcntl

__all__ = ["beside", "forget", "holder", "locked"]


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; it is gone afterwards.

    The system takes the lock away from a process that ends in whatever way, so what a killed process of this
    machine has left is taken over. The file says which process holds it.

    Args:
        file: the lock file; its folder is made.
        what: what is locked, for messages: "out: runs/a".

    Raises:
        UserError: another process holds it, or one on another machine has left it; or the disk is full.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.lock"
        >>> with locked(file, "out: a"), locked(file, "out: a"):
        ...     pass
        Traceback (most recent call last):
        saft.errors.UserError: out: a: another saft works in it (process ...
    """
    if os.name != "posix":
        yield
        return
    with telling_a_full_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(file, what)
    try:
        _refuse_of_other_machine(file, what)
        process = os.getpid()
        known = {"process": process, "host": socket.gethostname(), "born": born(process)}
        try:
            with telling_a_full_disk(file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, (json.dumps(known) + "\n").encode(), 0)
            yield
        finally:
            # A process that was taken for dead, its lock forgotten, may come back: the next one's lock stays.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    file.unlink()
    finally:
        os.close(descriptor)


def beside(target: str | Path) -> Path:
    """Return the lock file of a folder that is to be written.

    Args:
        target: the folder.

    Example:
        >>> beside("/runs/news").name
        '.news.lock'
    """
    folder = Path(os.path.realpath(target))
    return folder.with_name(f".{folder.name}.lock")


def holder(file: Path) -> str | None:
    """Return which process holds a lock file, as "process 12 on anna"; None where none does.

    Args:
        file: the lock file. What a killed process of another machine has left cannot be told from a lock.
    """
    left = _read(file)
    if not left:
        return None
    if os.name == "posix" and left.get("host") == socket.gethostname():
        # The lock itself is not tried: a `saft run` that begins now would meet it.
        process = str(left.get("process"))
        if not process.isdigit() or born(int(process)) != left.get("born"):
            return None
    return _holder(file)


def forget(file: Path, host: str, process: int) -> None:
    """Remove the lock file that a process of another machine has left, which is known to be dead.

    Args:
        file: the lock file.
        host, process: the dead process; a lock of any other stays.
    """
    left = _read(file)
    if host != socket.gethostname() and (left.get("host"), left.get("process")) == (host, process):
        file.unlink(missing_ok=True)


def _opened(file: Path, what: str) -> int:
    """Return a descriptor of the file with the lock on it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locks(descriptor, file):
            os.close(descriptor)
            raise UserError(
                f"{what}: another saft works in it ({_holder(file)}); wait until it has ended, or choose "
                "another folder"
            )
        # Who held it may have removed the file between our two calls: then this one has no name any more.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)


def _locks(descriptor: int, file: Path) -> bool:
    """Return whether nobody else had the lock, which this process has now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some shared disks, Lustre for one, know no locks: there, the file itself is what tells
        return _read(file).get("host") != socket.gethostname() or holder(file) is None
    return True


def _refuse_of_other_machine(file: Path, what: str) -> None:
    """Some shared disks keep locks to the machine: there, too, the file is what tells."""
    left = _read(file)
    if left and left.get("host") != socket.gethostname():
        raise UserError(
            f"{what}: another saft works in it, or was cut off there ({_holder(file)}); if none does, delete "
            f"{file}"
        )


def _holder(file: Path) -> str:
    left = _read(file)
    return f"process {left.get('process', '?')} on {left.get('host', '?')}"


def _read(file: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
