"""What a run will cost before it starts: cells, passes, time by a trial step, room on the disk."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saft.errors import UserError, collecting
from saft.experiment.claims import ClaimFolder
from saft.experiment.growth import refuse_changes
from saft.experiment.published_figures import refuse_mixed_units
from saft.experiment.session import Session
from saft.experiment.stages import (
    Step,
    base_model_steps,
    chosen_cells,
    drawn_cells,
    drawn_trials,
    every_step,
    rounds_before,
    steps_of_cells,
    weighted_folder,
)
from saft.files.checkpoint import tensor_headers
from saft.files.locations import folder as local_folder
from saft.merging.methods import METHODS
from saft.merging.outputs.parts import kept_bytes
from saft.merging.per_task import PerTaskMethod
from saft.parametrizations.full import Full
from saft.parametrizations.parametrization import trained_shapes
from saft.written import as_count

__all__ = ["RunCheck", "all_steps", "check", "cost_left", "missing_steps", "refuse_unfit"]

_TOO_LARGE_TO_TRY = 2 * 2**30  # bytes of weights
_BYTES = 4  # of a weight in a checkpoint: float32
_CHECKPOINT = 3  # copies of the weights in the checkpoint of a training: itself and two moments of AdamW


@dataclass(frozen=True)
class RunCheck:
    """What is left to do of an experiment in which nothing is wrong.

    Args:
        cells: of the whole grid; `open_cells` of them lack something.
        experts, merges: to train, and to make and test.
        passes: forward and backward passes over a batch that the trainings take.
        seconds: that it takes, by a trial step, without the merging itself; None where the model is too large
            to try one.
        bytes_most: that are written, all at once on the disk.
        bytes_left: of them, when all is finished.
        bytes_free: on the disk of the folder.
        trials: arm with `choices` -> number of its trials, and of its combinations.
    """

    cells: int
    open_cells: int
    experts: int
    merges: int
    passes: float
    seconds: float | None
    bytes_most: int
    bytes_left: int
    bytes_free: int
    trials: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.seconds is None:
            time = "unknown: the model is too large to try a step for this"
        else:
            time = f"about {_duration(self.seconds)} by a trial step, and the merging itself"
        return "\n".join(
            (
                f"cells: {self.cells}, {self.open_cells} to do",
                *(f"trials: {_trials(arm, *counts)}" for arm, counts in self.trials.items()),
                f"experts: {self.experts} to train, {as_count(self.passes)} passes over a batch in all",
                f"merges: {self.merges} to make",
                f"time: {time}",
                f"disk: {_size(self.bytes_most)} at most, {_size(self.bytes_left)} when it is finished; "
                f"{_size(self.bytes_free)} are free",
                "nothing is wrong",
            )
        )


def all_steps(session: Session) -> dict[str, list[Step]]:
    """Return what the base and each cell consist of, in order.

    Cells of an arm whose own config has changed since it failed are noted in `session.outdated`.

    Raises:
        UserError: figures that are known are damaged, or rest on something else than the config says now.
    """
    steps = {"base": list(base_model_steps(session))}
    cells = drawn_cells(session)
    steps |= steps_of_cells(session, cells)
    every = [step for part in steps.values() for step in part]
    rests_on = {step.name: step.rests_on for step in every}
    claims = ClaimFolder(session.folder.path).failed()
    failed = {cell.arm for cell in cells if str(cell) in claims}
    may_change = {
        step.name: f"arms.{cell.arm}"
        for cell in cells
        if cell.arm in failed and cell.arm in session.config.arms  # and no trial, of which there are others
        for step in steps[str(cell)]
    }
    kinds = {step.name: step.kind for step in every}
    outdated = refuse_changes(session.folder, rests_on, kinds, may_change)
    session.outdated = {cell for cell, part in steps.items() if any(step.name in outdated for step in part)}
    return steps


def missing_steps(session: Session, steps: dict[str, list[Step]]) -> dict[str, list[Step]]:
    """Return what is to be done of all steps; a cell that is finished is left out."""
    missing = {
        name: [step for step in part if name in session.outdated or not step.is_done(session.folder)]
        for name, part in steps.items()
    }
    return {name: part for name, part in missing.items() if part}


def cost_left(session: Session, missing: dict[str, list[Step]]) -> float:
    """Return about how long it takes to compute what is missing, in examples passed forward.

    Args:
        session: of the experiment.
        missing: as `missing_steps` gives it; what trials will need that are not drawn or chosen yet is added.
    """
    decided = set(chosen_cells(session))
    later = [
        step.cost
        for cell in chosen_cells(session, foreseen=True)
        if cell not in decided
        for step in every_step(session, cell)
        if not step.decides
    ]
    further = [step.cost for part in _foreseen_steps(session).values() for step in part]
    return sum(step.cost for part in missing.values() for step in part) + sum(later) + sum(further)


def refuse_unfit(session: Session) -> None:
    """Refuse an experiment that its data or the disk have no room for; nothing is written.

    Raises:
        UserError: an expected figure is of tasks of several units, a batch is larger than the training
            examples, an optimizer does not take what an arm trains of the trunk, an input under `reference`
            cannot be read, or the disk is too full.
    """
    refuse_mixed_units(session.config.expected, session.metrics)
    _refuse_large_batches(session)
    _refuse_untaken_weights(session)
    for cell in session.resolved.cells:
        if session.resolved.reads(cell.arm) == "reference":
            session.inputs(cell, next(iter(session.tasks)))  # reads the data under `reference`, as all others
            break
    (most, _), free = _bytes(session), _free(session.folder.path)
    if most > free:
        raise UserError(
            f"{session.folder.path}: needs {_size(most)}, but the disk has {_size(free)} left; "
            "make room, or choose an `out` on another disk"
        )


def check(session: Session, steps: dict[str, list[Step]]) -> RunCheck:
    """Say what an experiment in which nothing is wrong costs, after a trial step; nothing is written.

    Args:
        session: of the experiment.
        steps: all of its steps.
    """
    missing, cells = missing_steps(session, steps), drawn_cells(session, foreseen=True)
    seconds = _seconds(session, cost_left(session, missing))
    missing |= _foreseen_steps(session)
    names = [step.name for part in missing.values() for step in part]
    most, left = _bytes(session)
    first = next(iter(session.config.regimes))
    untrained = [
        session.resolved.arms[cell.arm].passes
        for cell in cells
        for task in session.tasks
        if f"{cell}/experts/{task}/training" in set(names) and not session.resolved.is_given(cell.arm)
    ]
    return RunCheck(
        cells=len(cells),
        open_cells=len(missing.keys() - {"base"}),
        experts=len(untrained),
        merges=sum(_is_choice(name) for name in names),
        passes=sum(untrained),
        seconds=seconds,
        bytes_most=most,
        bytes_left=left,
        bytes_free=_free(session.folder.path),
        trials={
            arm: (len(drawn_trials(session, first, arm, foreseen=True)), len(session.config.trials_of(arm)))
            for arm, keys in session.config.arms.items()
            if "choices" in keys
        },
    )


def _is_choice(name: str) -> bool:
    """Return whether figures are those of a merge's choice: .../merges/TASKS/METHOD/validation."""
    below = name.partition("/merges/")[2].split("/")
    return len(below) == 3 and below[-1] == "validation"


def _foreseen_steps(session: Session) -> dict[str, list[Step]]:
    """Return the steps of about as many trials as searches will still draw."""
    known = set(drawn_cells(session))
    return steps_of_cells(session, [c for c in drawn_cells(session, foreseen=True) if c not in known])


def _refuse_large_batches(session: Session) -> None:
    problems = [
        f"arms.{session.resolved.trials[trial].arm}.batch_size: is {options.batch_size}, but at train size "
        f"{size} there are {count} training examples of {task}; a batch holds none of them twice"
        for trial, options in session.resolved.arms.items()
        if not session.resolved.is_given(trial)
        for size, counts in session.train_counts.items()
        for task, count in counts.items()
        if options.batch_size > count
    ]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _refuse_untaken_weights(session: Session) -> None:
    """Try optimizers that do not take everything on what their arms train of the trunk."""
    problems: list[str] = []
    for trial, options in session.resolved.arms.items():
        for training in options.trainings:
            with collecting(problems, f"arms.{session.resolved.trials[trial].arm}."):
                if not training.takes_all:
                    trunk = next(iter(session.tasks.values())).load_trunk()
                    training.trained.wrap(trunk, lambda count: iter(()))
                    training.check_optimizer(trained_shapes(trunk))
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _bytes(session: Session) -> tuple[int, int]:
    """Return the bytes that will be written: at most at a time, and of them when all is finished."""
    folder, cells, keep = session.folder, drawn_cells(session, foreseen=True), session.config.keep
    tasks, methods = list(session.tasks), session.resolved.merges
    trained = [
        cell
        for cell in cells
        for task in tasks
        if not folder.figures(f"{cell}/experts/{task}/training").exists()
        and not session.resolved.is_given(cell.arm)
    ]
    untrained = [session.resolved.arms[cell.arm] for cell in trained]
    at_a_time = 1 if session.config.executor == "serial" else session.config.workers
    shapes = _shapes(session)
    whole = _whole(shapes)
    experts = _BYTES * sum(arm.trained.saved_weights(shapes) for arm in untrained)
    rounds = _BYTES * sum(
        arm.first.trained.saved_weights(shapes) * arm.rounds for arm in untrained if arm.first is not None
    )
    starts = [rounds_before(session, cell) for cell in cells if not session.start(cell).exists()]
    reported = chosen_cells(session, foreseen=True)
    merged = [[folder.merge(cell, tasks, method).exists() for method in methods] for cell in reported]
    sizes = [_merged_bytes(session, method, shapes) for method in methods]
    weighted = 0
    if session.config.selection.weights != "equal":
        weighted = sum(not weighted_folder(session, cell).exists() for cell in reported)
    if "merges" in keep:
        missing = (size for row in merged for size, there in zip(sizes, row, strict=True) if not there)
        merges = weighted * whole + sum(missing)
    else:
        groups = {(cell.train_size, cell.arm) for cell in reported}
        done = {(cell.train_size, cell.arm) for cell, row in zip(reported, merged, strict=True) if any(row)}
        best = (_merged_bytes(session, method, shapes) for method in session.resolved.deciding)
        merges = len(groups - done) * max(best)
    base = 0 if folder.base.exists() else 1
    training = (_CHECKPOINT + 1) * min(at_a_time, len(set(trained)))
    kept = sum(number > 0 for number in starts)  # of several rounds, the last merge
    left = base * whole + merges + (experts + kept * whole if "experts" in keep else 0)
    return (base + sum(starts) + training) * whole + merges + experts + rounds, left


def _shapes(session: Session) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the base model."""
    headers = tensor_headers(local_folder(session.origin.path, "model.path"))  # of the copy, if there is one
    return {name: tuple(header.shape) for name, header in headers.items()}


def _merged_bytes(session: Session, method: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the bytes of a merge's folder: of a model, or of the base and what is kept of the tasks."""
    made = METHODS.get(session.resolved.method(method)).build(session.resolved.merges[method].parameters)
    if not isinstance(made, PerTaskMethod):
        return _whole(shapes)
    shared, each = kept_bytes(made, shapes)
    return _whole(shapes) + shared + len(session.tasks) * each


def _whole(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of a checkpoint of all weights."""
    return _BYTES * Full().saved_weights(shapes)


def _seconds(session: Session, cost: float) -> float | None:
    """Return the time of this many examples passed forward, by a trial pass over one batch."""
    if _whole(_shapes(session)) > _TOO_LARGE_TO_TRY:
        return None
    cell, (name, task) = session.resolved.cells[0], next(iter(session.tasks.items()))
    size = session.resolved.arms[cell.arm].batch_size
    examples = session.splits(cell.train_size, cell.seed)[name].train
    batch = examples.collate([index % len(examples) for index in range(size)]).to(session.device)
    model = task.model(task.load_trunk()).train()
    fastest = math.inf
    for _ in range(3):  # the first warms up
        start = time.perf_counter()
        task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        fastest = min(fastest, time.perf_counter() - start)
    return fastest / (3 * size) * cost


def _free(folder: Path) -> int:
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _trials(arm: str, count: int, combinations: int) -> str:
    drawn = f" of {combinations} combinations, drawn" if count < combinations else ""
    return f"{arm}: {count}{drawn}; the one that merges best on validation data is tested"


def _size(count: float) -> str:
    unit = "MB" if count < 1e9 else "GB"
    return f"{count / (1e6 if unit == 'MB' else 1e9):.{0 if unit == 'MB' else 1}f} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
