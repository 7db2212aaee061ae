"""The folder of a training's logs and checkpoints, beside its target, until it has ended."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from saft.errors import UserError
from saft.files.lock import beside, locked
from saft.files.staging import write_text
from saft.files.temporary_names import remove
from saft.progress import note
from saft.training.callbacks import Diverged

__all__ = ["LAST", "clear_after_kill", "work_folder"]

LAST = "last.ckpt"  # in the folder: what an interrupted training goes on from
_BASIS = "basis.txt"  # in it, too: what it rests on


@contextmanager
def work_folder(out: Path, basis: str) -> Iterator[Path]:
    """Yield this process's work folder; what an interrupted training of the same basis has left is in it.

    Its name is new each time. So a process that was taken for dead, whose training this one goes on with, and
    that comes back after all, finds nothing under the name that it knows, and harms nothing.

    The folder is gone after the block, unless it failed and left something that a next call can go on from.

    Args:
        out: the target, whose lock this process holds.
        basis: the config, and the fingerprints of model and data.
    """
    own = _place(out) / secrets.token_hex(4)
    _take_over(own, basis)
    try:
        yield own
    except BaseException as error:
        if isinstance(error, Diverged) or not (own / LAST).exists():
            _remove(own)
        raise
    _remove(own)


def clear_after_kill(out: Path) -> None:
    """Remove what a training beside its finished folder has left that was killed at its very end.

    Args:
        out: the checkpoint folder, which is complete.
    """
    place, lock = _place(out), beside(out)
    if place.exists() or lock.exists():
        with suppress(UserError), locked(lock, f"out: {out}"):  # another may be about to do it
            shutil.rmtree(place, ignore_errors=True)


def _place(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


def _take_over(own: Path, basis: str) -> None:
    """Give this process's name to what an earlier one has left, if it rests on the same; remove all else."""
    place = own.parent
    left = list(place.iterdir()) if place.is_dir() else []
    fit = [each for each in left if _rests_on(each, basis)][:1]
    for each in fit:
        each.rename(own)
    others = [each for each in left if each not in fit]
    if not fit and any((each / LAST).exists() for each in others):
        note(f"{place.name}: is of another config, model or data, and removed; the training begins anew")
    for each in others:
        remove(each)
    write_text(own / _BASIS, basis)


def _rests_on(work: Path, basis: str) -> bool:
    file = work / _BASIS
    return file.is_file() and file.read_text("utf-8") == basis


def _remove(own: Path) -> None:
    shutil.rmtree(own, ignore_errors=True)
    with suppress(OSError):  # another's is in it
        own.parent.rmdir()
