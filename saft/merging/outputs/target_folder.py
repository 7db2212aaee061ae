"""The folder that a merge will write: what speaks against it, reported before any work."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from saft.config.ranges import name_problem
from saft.errors import UserError
from saft.files.checkpoint import HEADS
from saft.files.sentence_modules import module_settings
from saft.files.staging import refuse
from saft.merging.inputs.source import Source

__all__ = ["check_room", "check_target", "file_name_problems", "size_in_words"]


def check_target(out: Path, inputs: Iterable[Source], overwrite: bool) -> None:
    """Refuse a folder that is, holds or is a part of an input, or that is in use and is not to be replaced.

    Args:
        out: where the result will go.
        inputs: the base and the models, as far as they are known.
        overwrite: whether a folder that is there and not empty may be replaced.

    Raises:
        UserError: with the reason.
    """
    target = out.resolve()
    for folder in {file.parent.resolve() for source in inputs for file in source.files}:
        if target == folder:
            raise UserError(f"{out}: is one of the models to merge; choose another folder to write to")
        if target in folder.parents:
            raise UserError(
                f"{out}: holds {folder}, one of the models to merge; choose another folder to write to"
            )
        if any(folder / part in (target, *target.parents) for part in (HEADS, *module_settings(folder))):
            raise UserError(
                f"{out}: is in a part of {folder}, one of the models to merge; choose another folder to "
                "write to"
            )
    refuse(target, overwrite)


def check_room(out: Path, size: int, what: str = "the result takes") -> None:
    """Refuse a folder whose disk is too full.

    Args:
        out: where the result will go.
        size: of the result, in bytes.
        what: is so large, for the message.

    Raises:
        UserError: with both sides.
    """
    existing = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise UserError(
            f"{out}: {what} {size_in_words(size)}, "
            f"but {size_in_words(free)} are left on the disk of {existing}; "
            "make room, or choose a folder on another disk"
        )


def size_in_words(count: int) -> str:
    """Return a number of bytes with its unit.

    Example:
        >>> size_in_words(3 * 2**20), size_in_words(2**9)
        ('3.0 MiB', '0.5 KiB')
    """
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def file_name_problems(tasks: Iterable[str]) -> list[str]:
    """Return what is wrong with tasks that each will name a file, for the user.

    Example:
        >>> file_name_problems(["size", "../size"])
        ["models: '../size' cannot be a name, since files are called by it: write letters, digits, ..."]
    """
    return [f"models: {problem}" for task in tasks if (problem := name_problem(task))]
