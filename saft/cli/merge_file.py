"""`saft merge` as the command line has it: either dialect of the merge file, and a bar.

A file's keys are checked before anything that is slow to import.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saft import config
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.keys import check_keys, is_mergekit

if TYPE_CHECKING:
    from saft.merge import MergeResult

__all__ = ["merge", "read"]


def read(mapping: Mapping[str, Any], where: str) -> MergeConfig:
    """Return the config of a merge file of saft's, or of mergekit's, which has `merge_method:`."""
    if not is_mergekit(mapping):
        return config.parse(MergeConfig, mapping, where)
    check_keys(mapping, where)
    from saft.merging.mergekit import file as mergekit

    settings, notes = mergekit.read(mapping, where)
    for note in notes:
        print(note, file=sys.stderr)
    return settings


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
