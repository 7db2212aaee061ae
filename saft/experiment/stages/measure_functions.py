"""The experts of a cell beside each other: what they give for examples, and what a merge does to them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from saft.experiment.cells import Cell
from saft.experiment.figure_files import Measurement
from saft.experiment.folder import team
from saft.experiment.session import Session
from saft.experiment.stages.measure_weights import measured_weights
from saft.experiment.stages.merge_experts import choice, recipe
from saft.experiment.stages.step import Step
from saft.experiment.stages.trained_models import expert_folder
from saft.experiment.stages.weigh_experts import METHOD
from saft.interference.quantity import Measure
from saft.interference.task_space import TaskSpace
from saft.interference.weights import WeightMeasure
from saft.measure_models import values_of
from saft.measure_probe import task_space
from saft.measured_units import in_units
from saft.merging.merge_check import check
from saft.progress import Bar, note

__all__ = ["measure_functions_steps", "measured_name"]

BATCH_SIZE = 64


def measure_functions_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield a step for each of the config's further measures, all on the validation examples.

    Args:
        session: the experiment in this process.
        cell: whose experts are measured.
    """
    examples = session.examples_of("validation") / len(session.tasks)
    for name, measure in session.resolved.measures.items():

        def measured(bar: Bar, name: str = name) -> Measurement:
            made = session.resolved.measures[name]
            if isinstance(made, WeightMeasure):
                result = _of_weights(session, cell, name, made)
            else:
                result = _of_models(session, cell, made, bar, examples)
            if not result.measured:
                few = ": it compares several tasks, and there is one" if len(session.tasks) == 1 else ""
                note(f"measures: {name} gives nothing of {cell}{few}", about=f"measures: {name}")
            return result

        yield Step(
            measured_name(session, cell, name),
            Measurement,
            f"measure {name.replace('_', ' ')}",
            session.foundations.measure(cell, name),
            measure.cost(len(session.tasks)).forwards * examples,
            measured,
        )


def measured_name(session: Session, cell: Cell, measure: str) -> str:
    """Return the name of the figures of a measure.

    Args:
        session: the experiment in this process.
        cell: whose experts are measured.
        measure: its name in the config. One of a merge has that merge's name beside it, unless it is task
            arithmetic: with a further merge, another one may be measured.
    """
    name, merge = measure.replace(":", "."), session.resolved.measured_merge
    of_merge = session.resolved.measures[measure].of_merge and merge != METHOD
    return f"{cell}/measures/{team(list(session.tasks))}/{name}{f'-of-{merge}' if of_merge else ''}"


def _of_models(session: Session, cell: Cell, measure: Measure, bar: Bar, examples: float) -> Measurement:
    """Measure the experts of a cell by what they give for examples."""
    space = _space(session, cell)
    if measure.needs == "merge":
        space.scaling = choice(session, cell, session.resolved.measured_merge).shared
    values = values_of(measure, space, bar, measure.cost(len(space.tasks)).forwards * examples)
    return Measurement(
        values, {key: in_units(measure.quantities[key], session.tasks.values()) for key in values}
    )


def _of_weights(session: Session, cell: Cell, name: str, measure: WeightMeasure) -> Measurement:
    """Measure the task vectors of a cell by one measure, beside their merge where it is of that."""
    merge = None
    if measure.of_merge:
        method = session.resolved.measured_merge
        chosen = choice(session, cell, method)
        merge = check(
            dataclasses.replace(recipe(session, cell, method, chosen.parameters), scaling=chosen.shared)
        )
    return measured_weights(session, cell, {name: measure}, merge)


@functools.lru_cache(maxsize=1)
def _space(session: Session, cell: Cell) -> TaskSpace:
    """Return the space of a cell's experts; the last one is held, since its measures follow each other."""
    for task in session.tasks:
        expert_folder(session, cell, task)  # is trained again where it was not kept
    folders = {task: session.head_folder(cell, task) for task in session.tasks}
    splits = session.splits(cell.train_size, cell.seed)
    method = session.resolved.measured_merge
    merge = recipe(session, cell, method, choice(session, cell, method).parameters)
    return task_space(
        check(merge),
        session.tasks,
        {task: parts.validation for task, parts in splits.items()},
        folders,
        BATCH_SIZE,
        merge,
        session.trunk(cell=cell),
        session.config.trainer.get("precision"),
    )
