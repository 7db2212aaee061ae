"""Which trial of an arm is the arm, by the figures in the folder, and so which cells are reported."""

from __future__ import annotations

import math

from saft.experiment.arm_choice import ArmChoice, best_trial, merged_worth
from saft.experiment.cells import Cell
from saft.experiment.session import Session
from saft.experiment.stages.merge_experts import choice, expert_values, merge_name
from saft.tasks import Metric

__all__ = ["arm_choice", "chosen_cells", "is_chosen"]


def arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    """Return the choice among the trials of an arm; None as long as a figure that it rests on is missing.

    It is one trial for all merge methods, and no test score has a part in it.

    Args:
        session: the experiment in this process.
        train_size: its name.
        arm: its name in the config.

    Raises:
        UserError: a file of figures is damaged.
    """
    known = session.arm_choices.get((train_size, arm))
    if known is None:
        known = _arm_choice(session, train_size, arm)
        if known is not None:  # figures do not change any more
            session.arm_choices[train_size, arm] = known
    return known


def is_chosen(session: Session, cell: Cell) -> bool:
    """Return whether a cell's trial is known to be the arm, as it is where the arm has no other.

    Args:
        session: the experiment in this process.
        cell: of a trial.
    """
    arm = session.resolved.arm_of(cell)
    if len(session.resolved.trials_of(arm)) == 1:
        return True
    made = arm_choice(session, cell.train_size, arm)
    return made is not None and made.chosen == cell.arm


def chosen_cells(session: Session, foreseen: bool = False) -> list[Cell]:
    """Return the cells that are reported: those of the chosen trials.

    Args:
        session: the experiment in this process.
        foreseen: take an arm's first trial as long as none is chosen; every other one costs as much.
    """

    def counts(cell: Cell) -> bool:
        if is_chosen(session, cell):
            return True
        arm = session.resolved.arm_of(cell)
        undecided = foreseen and arm_choice(session, cell.train_size, arm) is None
        return undecided and session.resolved.trials_of(arm)[0].name == cell.arm

    return [cell for cell in session.resolved.cells if counts(cell)]


def _arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    resolved, metrics = session.resolved, session.metrics
    names = [trial.name for trial in resolved.trials_of(arm)]
    cells = [cell for cell in resolved.cells if cell.train_size == train_size and cell.arm in names]
    merges = [merge_name(session, cell, method) for cell in cells for method in resolved.merges]
    if not all(session.folder.figures(f"{name}/validation").is_file() for name in merges):
        return None
    experts = [expert_values(session, cell) for cell in cells]
    best = {task: _best([values[task] for values in experts], metrics[task]) for task in metrics}
    worths: dict[str, dict[int, float]] = {name: {} for name in names}
    for cell in cells:
        made = {method: choice(session, cell, method).chosen for method in resolved.merges}
        values = {m: {t: score.value for t, score in of.validation.items()} for m, of in made.items()}
        worths[cell.arm][cell.seed] = merged_worth(values, best, metrics)
    one = set(metrics.values())
    return ArmChoice(worths, best_trial(worths, len(one) > 1 or one.pop().higher_is_better))


def _best(values: list[float], metric: Metric) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max if metric.higher_is_better else min)(finite, default=math.nan)
