"""The steps of an experiment, in the order in which they can be computed, and a cell run by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from saft.experiment.cells import Cell, find
from saft.experiment.events import Tell
from saft.experiment.session import Session, open_session
from saft.experiment.stages.base_model import base_model_steps
from saft.experiment.stages.choose_trial import (
    arm_choice,
    chosen_cells,
    drawn_cells,
    drawn_trials,
    is_chosen,
)
from saft.experiment.stages.held_out import (
    expert_held_out_steps,
    held_out_name,
    merge_held_out_steps,
    weights_held_out_steps,
)
from saft.experiment.stages.measure_functions import measure_functions_steps, measured_name
from saft.experiment.stages.measure_weights import interference_name, measure_weights_steps
from saft.experiment.stages.merge_experts import choice, expert_values, merge_name, merge_steps, write_merge
from saft.experiment.stages.step import Step, carry_out
from saft.experiment.stages.train_expert import expert_steps, round_steps
from saft.experiment.stages.trained_models import rounds_before
from saft.experiment.stages.weigh_experts import (
    METHOD,
    weigh_steps,
    weighted_folder,
    weights_name,
    write_weighted,
)

__all__ = [
    "METHOD",
    "Step",
    "arm_choice",
    "base_model_steps",
    "carry_out",
    "carry_out_cell",
    "cell_steps",
    "choice",
    "chosen_cells",
    "drawn_cells",
    "drawn_trials",
    "every_step",
    "expert_values",
    "held_out_name",
    "interference_name",
    "is_chosen",
    "measured_name",
    "merge_name",
    "keep_merges",
    "rounds_before",
    "run_cell",
    "steps_of_cells",
    "weighted_folder",
    "weights_name",
    "write_merge",
]


def cell_steps(session: Session, cell: Cell) -> list[Step]:
    """Return the steps of a cell, as far as is known: of a trial that is not chosen only those that decide.

    Args:
        session: the experiment in this process.
        cell: of an arm, or of one of its trials.
    """
    return steps_of_cells(session, [cell])[str(cell)]


def steps_of_cells(session: Session, cells: Sequence[Cell]) -> dict[str, list[Step]]:
    """Return what `cell_steps` does of several cells; which trials are chosen is looked up once an arm.

    Args:
        session: the experiment in this process.
        cells: of arms, or of their trials.

    Returns:
        Name of the cell -> its steps, in order.
    """
    chosen = set(chosen_cells(session, cells))
    return {
        str(cell): [step for step in every_step(session, cell) if cell in chosen or step.decides]
        for cell in cells
    }


def every_step(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield every step of a cell: its start, each expert, the interference, each merge and its weights, and
    each measure; models are scored on the tasks that are held out as soon as they are there.

    Args:
        session: the experiment in this process.
        cell: of an arm, or of one of its trials.
    """
    yield from round_steps(session, cell)
    for task in session.tasks:
        yield from expert_steps(session, cell, task)
        yield from expert_held_out_steps(session, cell, task)
    yield from measure_weights_steps(session, cell)
    for method in session.resolved.merges:
        yield from merge_steps(session, cell, method)
        yield from merge_held_out_steps(session, cell, method)
        if method == METHOD:
            yield from weigh_steps(session, cell)
            yield from weights_held_out_steps(session, cell)
    yield from measure_functions_steps(session, cell)


def carry_out_cell(session: Session, cell: Cell, tell: Tell) -> None:
    """Compute what is missing of a cell, and write its merges if they are to be kept.

    Where a trial is chosen by what is computed here, its further steps and its merges take another call.

    Args:
        session: the experiment in this process.
        cell: to compute.
        tell: is told of every step that begins or ends.

    Raises:
        UserError: something that only the computation could find, such as a weight that is not finite.
    """
    keeps = "merges" in session.config.keep and is_chosen(session, cell)
    carry_out(session.folder, str(cell), cell_steps(session, cell), tell)
    if keeps:
        keep_merges(session, cell)


def keep_merges(session: Session, cell: Cell) -> None:
    """Write every merge of a cell, the weighted one among them, as checkpoint folders.

    Args:
        session: the experiment in this process.
        cell: whose figures are known.
    """
    for method in session.resolved.merges:
        write_merge(session, cell, method)
    write_weighted(session, cell)


def run_cell(folder: str | Path, cell: str, tell: Tell = lambda event: None) -> None:
    """Compute what is missing of one cell, in any process, from nothing but the experiment's folder.

    Args:
        folder: of an experiment that `saft run` has begun: with config.yaml and `base`.
        cell: name of the cell, for example "limited/sam/seed0".
        tell: is told what is being done, and how much of it.

    Raises:
        UserError: there is no such experiment or cell, or its data are no longer there.
    """
    session = open_session(folder)
    carry_out_cell(session, find(cell, session.resolved.cells), tell)
