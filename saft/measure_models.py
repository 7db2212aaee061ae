"""What measures of losses, functions and merges take, estimated before the first; then all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from saft.errors import UserError, abbreviated, collecting, is_for_memory
from saft.interference.functions import FunctionMeasure, MergeMeasure
from saft.interference.loss import LossMeasure
from saft.interference.quantity import (
    DIFFERENCE,
    IN_METRIC,
    Measure,
    Measured,
    Passes,
    Quantity,
)
from saft.interference.retained import worth
from saft.interference.task_space import TaskSpace
from saft.measure_config import MeasureConfig, MergeToMeasure
from saft.measure_probe import task_space
from saft.measured_units import in_units
from saft.merging import time_estimate
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.merging.parameters import of_some_models
from saft.merging.plan import Plan
from saft.progress import Bar, bar, note, waiting
from saft.tasks import BoundTask, Limits

__all__ = [
    "ModelMeasurement",
    "best_scaling",
    "merge_problems",
    "merge_to_measure",
    "values_of",
]

SCALING = Quantity(
    "scaling coefficient of the merge that is measured", definition="λ in base + λ · merged task vector"
)


@dataclass(frozen=True)
class ModelMeasurement:
    """Checkpoints with their tasks, checked and ready to be measured.

    Args:
        config: what the user asked for.
        space: the models.
        tasks: that it is measured on.
        measures: name -> measure, of losses, functions and merges.
        merge: the merge that is measured; None where no measure asks for one.
        examples: task -> number of those that are measured on.
    """

    config: MeasureConfig
    space: TaskSpace
    tasks: Collection[BoundTask]
    measures: Mapping[str, Measure]
    merge: Plan | None
    examples: Mapping[str, int]

    @classmethod
    def of(
        cls,
        config: MeasureConfig,
        plan: Plan,
        bound: Mapping[str, BoundTask],
        folders: Mapping[str, Path],
        measures: Mapping[str, Measure],
    ) -> ModelMeasurement:
        """Check everything, read the examples, and load one trunk.

        Args:
            config: what the user asked for.
            plan: of all checkpoints.
            bound: task -> bound task, of those checkpoints that have one; at least one.
            folders: checkpoint -> its folder.
            measures: name -> measure, none of weights.

        Raises:
            UserError: the merge method does not go with measures, a task has no validation example, or the
                tasks load the model in different ways.
        """
        merge = None
        if len(bound) > 1 and any(measure.needs == "merge" for measure in measures.values()):
            merge = merge_to_measure(config.merge, plan, list(bound), config.seed)
            if problems := list(merge_problems(measures, config.merge.method, merge.parameters, list(bound))):
                raise UserError(*problems)
        limits = Limits(train=0, validation=config.examples, test=0)
        examples = {name: task.examples(limits).validation for name, task in bound.items()}
        if empty := [name for name, some in examples.items() if not len(some)]:
            raise UserError(f"tasks.{empty[0]}: has no validation example to measure on")
        recipe = None if merge is None else merge.config
        space = task_space(
            plan, bound, examples, folders, config.batch_size, recipe, precision=config.precision
        )
        if merge is None:
            if of_merges := [name for name, made in measures.items() if made.needs == "merge"]:
                note_empty(of_merges, list(bound))
            measures = {name: made for name, made in measures.items() if made.needs != "merge"}
        counts = {name: len(some) for name, some in examples.items()}
        return cls(config, space, bound.values(), measures, merge, counts)

    def make(
        self, measured: dict[str, Measured], quantities: dict[str, Quantity], problems: list[str]
    ) -> None:
        """Make every measure that fits the budget, and say before how long they take.

        Args:
            measured: takes quantity -> what was measured, as soon as it is known.
            quantities: takes quantity -> what it is.
            problems: takes why a measure could not be made; the others are.
        """
        measures, costs = self._within_budget()
        merges = any(made.needs == "merge" for made in measures.values())
        search = self._search if merges else Passes()
        total = sum((costs[name] for name in measures), search)
        empty: list[str] = []
        with bar(total=total.forwards) as progress:
            if self.merge is not None and merges:
                progress.stage(f"scaling coefficient of {self.merge.config.method}")
                grid = self._scalings()
                self.space.scaling = best_scaling(self.space, grid) if len(grid) > 1 else grid[0]
                progress.advance(search.forwards)
                quantities["scaling"], measured["scaling"] = SCALING, self.space.scaling
            for name, measure in measures.items():
                progress.stage(name.replace("_", " "))
                with _kept(problems, name):
                    values = values_of(measure, self.space, progress, costs[name].forwards)
                    if not values:
                        empty.append(name)
                    # First what it is: an interrupt between the two must leave no figure without it.
                    quantities |= {one: in_units(measure.quantities[one], self.tasks) for one in values}
                    measured |= values
        if empty:
            note_empty(empty, self.space.tasks)

    @property
    def _search(self) -> Passes:
        """What the choice of the coefficient takes: the experts' scores, and those of each merge of all."""
        count = len(self._scalings())
        return Passes(forward=len(self.space.tasks) * (1 + count)) if count > 1 else Passes()

    def _scalings(self) -> list[float]:
        """Return the coefficients to choose from; one where there is no choice."""
        if self.merge is None:
            return []
        chosen = self.config.merge.scaling
        return list(self.merge.method.scaling_grid) if chosen is None else [chosen]

    def _within_budget(self) -> tuple[dict[str, Measure], dict[str, Passes]]:
        """Return the measures that fit into `seconds`, in their order, and what each takes; note the sum."""
        tasks = len(self.space.tasks)
        with waiting("how long a pass takes ..."):
            a_pass, a_score = self._seconds_of_passes()
        a_merge = 0.0 if self.merge is None else time_estimate.seconds(self.merge)
        costs = {name: measure.cost(tasks) for name, measure in self.measures.items()}
        inside, outside, planned, spent = dict[str, Measure](), list[str](), Passes(), 0.0
        search = self._search  # of the coefficient: the first measure of a merge takes it along
        for name, measure in self.measures.items():
            own, before = costs[name], search if measure.needs == "merge" else Passes()
            takes = (a_score if _scores(measure) else a_pass) * own.forwards
            takes += a_score * before.forwards + a_merge * own.merges
            if self.config.seconds is not None and spent + takes > self.config.seconds:
                outside.append(f"{name} (about {takes:.0f} s)")
                continue
            inside[name] = measure
            planned, spent = planned + own + before, spent + takes
            if measure.needs == "merge":
                search = Passes()
        models = "1 model" if tasks == 1 else f"{tasks} models"
        note(
            f"measures of {models}: at most {planned.forward:.0f} passes forward and "
            f"{planned.backward:.0f} forward and backward over up to {self.config.examples} examples, and "
            f"{planned.merges:.0f} merges: about {max(spent, 1):.0f} s"
        )
        if outside:
            note(f"seconds: {self.config.seconds:g} leaves no room for {', '.join(outside)}")
        return inside, costs

    def _seconds_of_passes(self) -> tuple[float, float]:
        """Return about how long a pass takes, and one that gives scores: those may generate texts.

        Nothing is computed in vain: the space keeps what is made for every task at its own model.
        """
        space, begin = self.space, time.perf_counter()
        for task in space.tasks:
            space.response(task, space.expert(task))
        a_pass = (time.perf_counter() - begin) / len(space.tasks)
        if not any(map(_scores, self.measures.values())):
            return a_pass, a_pass
        begin = time.perf_counter()
        for task in space.tasks:
            space.score(task, space.expert(task))
        return a_pass, (time.perf_counter() - begin) / len(space.tasks)


@contextmanager
def _kept(problems: list[str], name: str) -> Iterator[None]:
    """Put what keeps one measure from being made into a list, so that the others are not lost by it."""
    try:
        with collecting(problems):
            yield
    except Exception as error:
        if not is_for_memory(error):
            raise
        problems.append(f"measures: {name}: not enough memory; leave it out, or take a smaller batch_size")


def _scores(measure: Measure) -> bool:
    return any(quantity.unit in (IN_METRIC, DIFFERENCE) for quantity in measure.quantities.values())


def note_empty(measures: Sequence[str], tasks: Sequence[str]) -> None:
    """Tell which measures give nothing, since it was asked for them: none is left out without a word.

    Args:
        measures: their names.
        tasks: of the models that are measured.
    """
    why = "these models have nothing of the kind; see `saft measures NAME`"
    if len(tasks) == 1:
        why = f"they compare several models that have a task, and only '{tasks[0]}' has one"
    note(f"nothing is measured by {', '.join(measures)}: {why}")


def merge_to_measure(merge: MergeToMeasure, plan: Plan, tasks: list[str], seed: int = 0) -> Plan:
    """Return the checked merge of some of a plan's models.

    Args:
        merge: the method and its parameters, of all models.
        plan: of all models, checked.
        tasks: names of the models that are merged.
        seed: of methods that draw random numbers.

    Raises:
        UserError: the method does not exist, reads examples, or gives more than one model.
    """
    models = plan.config.by_task()
    problems: list[str] = []
    with collecting(problems, "merge.method: "):
        kind = METHODS.get(merge.method)
        with collecting(problems, "merge.parameters: "):
            kind.build(merge.parameters)
    if problems:
        raise UserError(*problems)
    parameters = of_some_models(kind, merge.parameters, [list(models).index(task) for task in tasks])
    some, exclude = {task: models[task] for task in tasks}, plan.config.exclude
    recipe = MergeConfig(
        merge.method, plan.config.base, some, parameters, scaling=merge.scaling, exclude=exclude, seed=seed
    )
    with collecting(problems, f"merge.method: {merge.method}: "):
        checked = check(recipe)
    if problems:
        raise UserError(*problems)
    if checked.method.calibration or checked.method.gives != "one model":
        what = "reads examples" if checked.method.calibration else f"gives {checked.method.gives}"
        raise UserError(
            f"merge.method: '{merge.method}' {what}; measures take a method that gives one model from "
            "weights only, such as task_arithmetic or ties"
        )
    return checked


def merge_problems(
    measures: Mapping[str, Measure], method: str, parameters: Mapping[str, Any], tasks: Sequence[str]
) -> Iterator[str]:
    """Yield for each measure why a method cannot merge those of the models that it merges, if so.

    Args:
        measures: name -> measure.
        method: name of the merge method.
        parameters: of the method, for all models.
        tasks: of all models.

    Example:
        >>> from saft.interference.leave_one_out import LeaveOneOut
        >>> list(merge_problems({"leave_one_out": LeaveOneOut()}, "slerp", {}, ["a", "b"]))
        ["measures: leave_one_out merges the model of 'a' by slerp: this method merges 2, but there are 1; ...
    """
    kind = METHODS.get(method)
    for name, measure in measures.items():
        for some in measure.merges(tasks) if isinstance(measure, MergeMeasure) else ():
            places = [tasks.index(task) for task in some]
            problems = kind.build(of_some_models(kind, parameters, places)).problems(len(some))
            if problems:
                models = "model" if len(some) == 1 else "models"
                yield (
                    f"measures: {name} merges the {models} of {abbreviated(some)} by {method}: "
                    f"{problems[0].removeprefix('models: ')}; leave {name} out, or measure another merge"
                )
                break


def values_of(measure: Measure, space: TaskSpace, progress: Bar, cost: float) -> dict[str, Measured]:
    """Return what a measure gives of a space; those of the loss for each task at its own model.

    Args:
        measure: of losses, functions or merges.
        space: the models.
        progress: is called when `cost` is done, in parts where there are any.
        cost: of the measure.
    """
    if isinstance(measure, FunctionMeasure):
        measured = measure.values(space)
        progress.advance(cost)
        return measured
    of_loss: dict[str, dict[str, Measured]] = {}
    for task, probe in space.probes.items():
        space.move(space.expert(task))
        moved = [p for p in space.trunk.parameters() if p.requires_grad]
        values = cast(LossMeasure, measure).values(probe.module, probe.loss, probe.batches, moved)
        for quantity, value in values.items():
            of_loss.setdefault(quantity, {})[task] = value
        progress.advance(cost / len(space.probes))
    return cast(dict[str, Measured], of_loss)


def best_scaling(space: TaskSpace, grid: list[float]) -> float:
    """Return the coefficient with the best mean normalized score of the merge of all; of equals the smallest.

    Args:
        space: the models; its own coefficient is put back.
        grid: at least one coefficient.
    """
    before, worths = space.scaling, dict[float, float]()
    experts = {task: space.score(task, space.expert(task)) for task in space.tasks}
    try:
        for scaling in grid:
            space.scaling = scaling
            total = sum(
                worth(space.score(task, space.merged()), expert, space.probes[task].higher_is_better)
                for task, expert in experts.items()
            )
            worths[scaling] = -math.inf if math.isnan(total) else total
    finally:
        space.scaling = before
    return max(sorted(worths), key=lambda scaling: worths[scaling])
