"""A merge in several stages: all are checked before the first, and what lies between them is not kept."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saft.errors import UserError, collecting
from saft.files.lock import locked
from saft.files.staging import write_text
from saft.merge import MergeResult, carried_out, check_surroundings, checked
from saft.merging.expected_result import expected_result
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.inputs.source import Source, read_source
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.multi_merge import Stage
from saft.merging.notes import notes
from saft.merging.outputs.record import describe
from saft.merging.outputs.resume import is_repeatable, mark
from saft.merging.outputs.target_folder import check_room, check_target, size_in_words
from saft.merging.outputs.whole_model import Weights
from saft.merging.plan import Earlier, Plan
from saft.progress import bar

if TYPE_CHECKING:
    from saft.cli.merge_file import SeveralMerges

__all__ = ["MergesResult", "clear", "merge_stages"]

_FINISHED = ".finished.json"  # names of stages do not begin with a point


@dataclass(frozen=True)
class MergesResult:
    """What was merged in several stages, and where the last result is.

    Args:
        folder: the checkpoint folder; None when it was only checked.
        results: name of each merge, or "last merge" -> what is known of it.
        finished: those of a merge that was killed which are not done again.
    """

    folder: Path | None
    results: Mapping[str, MergeResult]
    finished: Sequence[str] = ()

    def __str__(self) -> str:
        plans = {name: result.plan for name, result in self.results.items()}
        lines = [f"{name}: {describe(one.plan, one.notes)}" for name, one in self.results.items()]
        *between, last = (plan.bytes_out for plan in plans.values())
        passes = sum(plan.passes for plan in plans.values())
        read = sum(plan.bytes_to_read for plan in plans.values())
        memory = max(plan.memory for plan in plans.values())
        lines.append(
            f"all {len(plans)} merges: {passes} passes read {size_in_words(read)}, write "
            f"{size_in_words(sum(between) + last)}, of which {size_in_words(sum(between))} lie beside OUT "
            f"until the end, and need at most about {memory / 2**20:.0f} MiB of memory"
        )
        if self.finished:
            quoted = ", ".join(f"'{name}'" for name in self.finished)
            lines.append(f"{'went' if self.folder else 'goes'} on after {quoted}, of a merge that was killed")
        summaries = {name: result.written.summary for name, result in self.results.items()}
        lines += [f"{name}: {summary}" for name, summary in summaries.items() if summary]
        if self.folder:
            return "\n".join([*lines, f"written: {self.folder}"])
        left = [result for name, result in self.results.items() if name not in self.finished]
        if all(result.seconds is not None for result in left):
            seconds = sum(result.seconds or 0.0 for result in left)
            lines.append(f"takes about {seconds:.1f} s, by a short trial of each")
        if examples := max(result.examples_memory for result in left):
            lines.append(
                f"reads examples through the models, which take about {examples / 2**20:.0f} MiB meanwhile"
            )
        lines += [
            "'{}' goes on with {} of {} shards".format(name, *result.shards_left)
            for name, result in self.results.items()
            if name not in self.finished and result.shards_left[0]
        ]
        return "\n".join([*lines, "nothing is wrong"])


@dataclass(frozen=True)
class _Checked:
    """A merge that has been checked, and the mark that it had then: its inputs may change meanwhile."""

    plan: Plan
    mark: str


def merge_stages(
    several: SeveralMerges, out: str | None, check_only: bool = False, overwrite: bool = False
) -> MergesResult:
    """Do the merges of a file, the last into `out`, the others into a folder beside it that is removed.

    A process that is killed leaves that folder, and the same command goes on after the merges in it.

    Args:
        several: the merges.
        out: the folder to write; None where it is only checked.
        check_only: whether to stop after the check.
        overwrite: whether a folder that is there and not empty may be replaced.

    Raises:
        UserError: with everything that is wrong with any of them.
    """
    between = _between(out or "OUT")
    checks = _checked(several, between)
    finished = _finished(between, checks) if out is not None else []
    if out is not None:
        _check_place(Path(out), checks, finished, overwrite)
    if check_only or out is None:
        return MergesResult(None, _results(checks, out, between, finished), finished)
    for one in checks.values():
        check_surroundings(one.plan)
    with locked(_lock(between), out):
        try:
            finished = _finished(between, checks)
            _clear_others(between, checks, finished)
            results = _carried_out(several, checks, out, between, finished, overwrite)
        finally:
            _remove(between)
    return MergesResult(Path(out), results, finished)


def clear(out: str | Path) -> None:
    """Remove what a merge in stages into the same folder has left that was killed.

    Args:
        out: the folder that was written.
    """
    between = _between(out)
    if between.is_dir():
        with suppress(UserError), locked(_lock(between), str(out)):  # another one works there
            _remove(between)


def _between(out: str | Path) -> Path:
    target = Path(os.path.realpath(out))
    return target.with_name(f".{target.name}.stages")


def _lock(between: Path) -> Path:
    return between.with_name(f"{between.name}.lock")


def _checked(several: SeveralMerges, between: Path) -> dict[str, _Checked]:
    """Return the plan of each merge, each checked with what those before it will give."""
    problems: list[str] = []
    checks: dict[str, _Checked] = {}
    known: dict[str, Source] = {}
    for stage, config in several.merges:
        last = stage is several.merges[-1][0]
        if not checks.keys() >= {*stage.needs}:
            continue  # what is wrong with those is told
        with collecting(problems, f"{several.place(stage)}: "):
            plan = _plan(stage, config, known, checks, between, several.names)
            if refused := [*_refused(plan, stage, last)]:
                raise UserError(*refused)
            checks[stage.label] = _Checked(plan, mark(plan))
            known[stage.label] = expected_result(plan, stage.label, between / stage.label)
    if problems:
        raise UserError(*problems)
    return checks


def _plan(
    stage: Stage,
    config: MergeConfig,
    known: Mapping[str, Source],
    checks: Mapping[str, _Checked],
    between: Path,
    names: Collection[str],
) -> Plan:
    """Return the plan of a merge, given what the others give, their plans, and the names of all."""
    plan = check(config, read=partial(_read, known=known, names=names))
    earlier: dict[str, Earlier] = {}
    for name in stage.needs:
        earlier |= {one.name: one for one in checks[name].plan.earlier}
        earlier[name] = Earlier(name, between / name, checks[name].mark)
    return dataclasses.replace(plan, earlier=tuple(earlier.values()))


def _read(
    location: str, what: str, base: Source | None, known: Mapping[str, Source], names: Collection[str]
) -> Source:
    """Return an input; where there is none, it may have been meant for one of the merges."""
    try:
        return read_input(location, what, base, known)
    except UserError as error:
        parts = [part for part in location.split("+") if not Path(part).exists()]
        near = [name for part in parts for name in get_close_matches(part, names, n=1)]
        hint = f"; did you mean the merge '{near[0]}'?" if near and near[0] not in parts else ""
        raise UserError(*(f"{problem}{hint}" for problem in error.problems)) from error


def _refused(plan: Plan, stage: Stage, last: bool) -> Iterator[str]:
    """Yield what a merge by itself may do, but not one of several."""
    keys = [
        key for key in ("adapter_rank", "interventions", "output") if getattr(plan.config, key) is not None
    ]
    asked = ", ".join(keys) or f"merge_method {plan.config.method}"
    if not last and type(plan.output) is not Weights:
        yield f"{asked}: another merge takes the result, and takes only whole weights; leave it out"
    elif not plan.output.is_model and (base := plan.config.base.partition("+")[0]) in stage.needs:
        yield (
            f"{asked}: the result would need its base '{base}', which is not kept; write '{base}' by a file "
            "of its own, and give its folder as the base"
        )


def _finished(between: Path, checks: Mapping[str, _Checked]) -> list[str]:
    """Return the merges that a process that was killed has finished, with the same inputs and settings."""
    noted: Any = None
    with suppress(OSError, ValueError):
        noted = json.loads((between / _FINISHED).read_text("utf-8"))
    return [
        name
        for name, one in checks.items()
        if isinstance(noted, dict) and noted.get(name) == one.mark and (between / name).is_dir()
        if is_repeatable(one.plan) and one.plan.config.upload is None
    ]


def _check_place(out: Path, checks: Mapping[str, _Checked], finished: Sequence[str], overwrite: bool) -> None:
    """Check the folder to write: none of the inputs is in it, and the disk holds all results at once."""
    plans = {name: one.plan for name, one in checks.items()}
    inputs = [source for plan in plans.values() for source in (plan.base, *plan.models.values())]
    check_target(out, inputs, overwrite)
    missing = sum(plan.bytes_out for name, plan in plans.items() if name not in finished)
    check_room(out, missing, "the results of all its merges take")


def _results(
    checks: Mapping[str, _Checked], out: str | None, between: Path, finished: Sequence[str]
) -> dict[str, MergeResult]:
    """Return what is known of each merge before any is done."""
    results: dict[str, MergeResult] = {}
    for name, one in checks.items():
        target = None if out is None else out if name == [*checks][-1] else between / name
        results[name] = _known(one.plan) if name in finished else checked(one.plan, target)
    return results


def _known(plan: Plan) -> MergeResult:
    """Return what is known of a merge that is not done again."""
    return MergeResult(None, plan, notes=tuple(notes(plan)))


def _carried_out(
    several: SeveralMerges,
    checks: Mapping[str, _Checked],
    out: str,
    between: Path,
    finished: Sequence[str],
    overwrite: bool,
) -> dict[str, MergeResult]:
    results: dict[str, MergeResult] = {}
    known: dict[str, Source] = {}
    done = list(finished)
    for stage, config in several.merges:
        name, last = stage.label, stage is several.merges[-1][0]
        problems: list[str] = []
        if name in finished:
            results[name] = _known(checks[name].plan)
        else:
            with bar(total=1) as shown, collecting(problems, f"{several.place(stage)}: "):
                shown.stage(f"{name}: merge by {config.method}")
                plan = _plan(stage, config, known, checks, between, several.names)
                target = out if last else between / name
                results[name] = carried_out(plan, target, overwrite and last, shown.at)
        if problems:
            raise UserError(*problems)
        if not last:
            done += [name] if name not in done else []
            _note(between, checks, done)
            known[name] = read_source(name, between / name)
    return results


def _note(between: Path, checks: Mapping[str, _Checked], done: Sequence[str]) -> None:
    write_text(between / _FINISHED, json.dumps({name: checks[name].mark for name in done}) + "\n")


def _clear_others(between: Path, checks: Mapping[str, _Checked], finished: Sequence[str]) -> None:
    """Remove what is neither a finished merge nor what `staged` may go on with."""
    if not between.is_dir():
        return
    _note(between, checks, finished)  # before anything of what it speaks of is gone
    for entry in between.iterdir():
        unfinished = any(entry.name.startswith(f".{name}.saft-") for name in checks)
        if entry.is_dir() and not unfinished and entry.name not in finished:
            shutil.rmtree(entry, ignore_errors=True)


def _remove(between: Path) -> None:
    with suppress(OSError):
        (between / _FINISHED).unlink(missing_ok=True)  # first: it must not outlive what it speaks of
    shutil.rmtree(between, ignore_errors=True)
