"""`saft merge` as the command line has it: either dialect of the merge file, and a bar.

A file's keys are checked before anything that is slow to import.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saft import config
from saft.errors import UserError, collecting
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.keys import check_keys, is_mergekit

if TYPE_CHECKING:
    from saft.merge import MergeResult

__all__ = ["merge", "read"]


def read(mapping: Mapping[str, Any], where: str, depth: config.Depth = "all") -> MergeConfig:
    """Return the config of a merge file of saft's, or of mergekit's, which has `merge_method:`.

    Args:
        mapping: what the file holds.
        where: the file, for messages.
        depth: how far it is checked; see `saft.config.parse`. Only with "all" it is noted what is ignored.

    Raises:
        UserError: with everything that is wrong.
    """
    notes: list[str] = []
    if not is_mergekit(mapping):
        settings = config.parse(MergeConfig, mapping, where, depth=depth)
    else:
        check_keys(mapping, where)
        from saft.merging.mergekit import file as mergekit

        settings, notes = mergekit.read(mapping, where)
    if depth == "options":
        _check_options(settings, where)
    for note in notes if depth == "all" else ():
        print(note, file=sys.stderr)
    return settings


def _check_options(settings: MergeConfig, where: str) -> None:
    """Check what the method, the output and the kinds of tasks know; the merge itself checks it once more."""
    from saft import tasks
    from saft.merging.merge_check import check_words

    problems: list[str] = []
    with collecting(problems):
        check_words(settings)
    for name, keys in settings.data.tasks.items():
        with collecting(problems):
            tasks.build(name, keys, "data.tasks")
    if problems:
        raise UserError(*(f"{where}: {problem}" for problem in problems))


def merge(
    settings: MergeConfig, out: str | None, check_only: bool = False, overwrite: bool = False
) -> MergeResult:
    """Merge, and show how far it is.

    Args:
        settings: what to merge, and how.
        out: the folder to write; None where it is only checked.
        check_only: whether to stop after the check.
        overwrite: whether a folder that is there and not empty may be replaced.

    Raises:
        UserError: as `saft.merge`.
    """
    from saft.merge import merge as merge_checkpoints
    from saft.progress import bar

    with bar(total=1) as shown:
        shown.stage(f"{'check' if check_only else 'merge by'} {settings.method}")
        return merge_checkpoints(settings, out, overwrite, check_only, shown.at)
