"""`saft merge` as the command line has it: either dialect of the merge file, and a bar.

A file's keys are checked before anything that is slow to import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saft import config
from saft.errors import NotYet, UserError, collecting
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.keys import check_keys, is_mergekit
from saft.merging.mergekit.multi_merge import Stage, stages
from saft.stand_ins import stand_ins

if TYPE_CHECKING:
    from saft.cli.merge_stages import MergesResult
    from saft.merge import MergeResult

__all__ = ["SeveralMerges", "merge", "read"]


@dataclass(frozen=True)
class SeveralMerges:
    """The merges of a file of mergekit's that has several, in the order in which they are done.

    Args:
        merges: each with its config, in which the results of others are locations, by their names.
        where: the file, for messages.
    """

    merges: tuple[tuple[Stage, MergeConfig], ...]
    where: str

    @property
    def names(self) -> list[str]:
        """Return the names by which results can be asked for."""
        return [stage.name for stage, _ in self.merges if stage.name is not None]

    def place(self, stage: Stage) -> str:
        """Return what begins the messages about a merge."""
        return _place(self.where, stage)


def read(mapping: Mapping[str, Any], where: str, depth: config.Depth = "all") -> MergeConfig | SeveralMerges:
    """Return the config of a merge file of saft's, or of mergekit's, which has `merge_method:`.

    Of a file of several documents it gives all of its merges; mergekit's file is the only one that may be so.

    Args:
        mapping: what the file holds.
        where: the file, for messages.
        depth: how far it is checked; see `saft.config.parse`. Only with "all" it is noted what is ignored.

    Raises:
        UserError: with everything that is wrong.
    """
    if "stages" in mapping:
        return _read_stages(mapping, where, depth)
    if is_mergekit(mapping) and "name" in mapping:
        mapping = stages([mapping], where)[0].mapping
    return _read_one(mapping, where, depth)


def _read_stages(mapping: Mapping[str, Any], where: str, depth: config.Depth) -> SeveralMerges:
    if surplus := [key for key in mapping if key != "stages"]:
        raise UserError(
            f"{where}: {surplus[0]}: has several merges; write the key into the document it is for"
        )
    problems: list[str] = []
    merges: list[tuple[Stage, MergeConfig]] = []
    for stage in stages(mapping["stages"], where):
        if not is_mergekit(stage.mapping):
            raise UserError(f"{where}: has several documents, but one is not mergekit's: {[*stage.mapping]}")
        with collecting(problems):
            merges.append((stage, _read_one(stage.mapping, _place(where, stage), depth)))
    if problems:
        raise UserError(*problems)
    return SeveralMerges(tuple(merges), where)


def _place(where: str, stage: Stage) -> str:
    return f"{where}: {stage.label}"


def _read_one(mapping: Mapping[str, Any], where: str, depth: config.Depth) -> MergeConfig:
    notes: list[str] = []
    if not is_mergekit(mapping):
        try:
            settings = config.parse(MergeConfig, mapping, where, depth=depth)
        except UserError as error:
            raise UserError(*_with_cures(error.problems, mapping, where)) from None
    else:
        check_keys(mapping, where)
        from saft.merging.mergekit import file as mergekit

        settings, notes = mergekit.read(mapping, where)
    if depth == "options":
        _check_options(settings, where)
    for note in notes if depth == "all" else ():
        print(note, file=sys.stderr)
    return settings


def _with_cures(problems: Sequence[str], mapping: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield the problems of a file, with the cure where a parameter of the method stands beside its keys."""
    of_method: list[str] = []
    with stand_ins(), suppress(UserError, NotYet):  # there is no such method, which is told later
        from saft.merging.methods import METHODS

        of_method = [item.name for item in METHODS.get(str(mapping.get("method"))).parameter_infos()]
    for problem in problems:
        misplaced = (key for key in of_method if problem.startswith(f"{where}: {key}: unknown key"))
        yield next((f"{where}: {key}: belongs under `parameters:`" for key in misplaced), problem)


def _check_options(settings: MergeConfig, where: str) -> None:
    """Check what the method, the output and the kinds of tasks know; the merge itself checks it once more."""
    from saft import tasks
    from saft.merging.merge_check import check_words

    problems: list[str] = []
    with collecting(problems):
        check_words(settings)
    with collecting(problems):
        tasks.check_keys(settings.data.tasks, "data.tasks")
    if problems:
        raise UserError(*(f"{where}: {problem}" for problem in problems))


def merge(
    settings: MergeConfig | SeveralMerges, out: str | None, check_only: bool = False, overwrite: bool = False
) -> MergeResult | MergesResult:
    """Merge, and show how far it is.

    Args:
        settings: what to merge, and how.
        out: the folder to write; None where it is only checked.
        check_only: whether to stop after the check.
        overwrite: whether a folder that is there and not empty may be replaced.

    Raises:
        UserError: as `saft.merge`.
    """
    from saft.cli.merge_stages import clear, merge_stages

    if isinstance(settings, SeveralMerges):
        return merge_stages(settings, out, check_only, overwrite)
    from saft.merge import merge as merge_checkpoints
    from saft.progress import bar

    with bar(total=1) as shown:
        shown.stage(f"{'check' if check_only else 'merge by'} {settings.method}")
        result = merge_checkpoints(settings, out, overwrite, check_only, shown.at)
    if out is not None and not check_only:
        clear(out)
    return result
