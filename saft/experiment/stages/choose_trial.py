"""Which trial of an arm is the arm, by the figures in the folder, and so which cells are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence

from saft.experiment.arm_choice import ArmChoice, best_trial, merged_worth
from saft.experiment.cells import Cell
from saft.experiment.session import Session
from saft.experiment.stages.merge_experts import choice, expert_values, merge_name
from saft.tasks import Metric

__all__ = ["arm_choice", "chosen_cells", "is_chosen"]


def arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    """Return the choice among the trials of an arm; None as long as a figure that it rests on is missing.

    It is one trial for all merge methods, and no test score has a part in it; nor have methods that keep a
    part per task, where others are among the merges.

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
    return bool(chosen_cells(session, [cell]))


def chosen_cells(session: Session, cells: Sequence[Cell] | None = None, foreseen: bool = False) -> list[Cell]:
    """Return the cells that are reported: those of the chosen trials.

    What an arm's choice rests on is looked at once, however many cells it has.

    Args:
        session: the experiment in this process.
        cells: among these; None: all.
        foreseen: take an arm's first trial as long as none is chosen; every other one costs as much.
    """
    cells = session.resolved.cells if cells is None else cells
    of_arms = {cell: (cell.train_size, session.resolved.arm_of(cell)) for cell in cells}
    reported = {place: _reported(session, *place, foreseen) for place in dict.fromkeys(of_arms.values())}
    return [cell for cell, place in of_arms.items() if cell.arm == reported[place]]


def _reported(session: Session, train_size: str, arm: str, foreseen: bool) -> str | None:
    """Return the trial that is the arm, or that stands for it; None where there is none."""
    trials = session.resolved.trials_of(arm)
    if len(trials) == 1:
        return trials[0].name
    made = arm_choice(session, train_size, arm)
    if made is not None:
        return made.chosen
    return trials[0].name if foreseen else None


def _arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    resolved, metrics = session.resolved, session.metrics
    names = [trial.name for trial in resolved.trials_of(arm)]
    cells = [cell for cell in resolved.cells if cell.train_size == train_size and cell.arm in names]
    merges = [merge_name(session, cell, method) for cell in cells for method in resolved.deciding]
    if not all(session.folder.figures(f"{name}/validation").is_file() for name in merges):
        return None
    experts = [expert_values(session, cell) for cell in cells]
    best = {task: _best([values[task] for values in experts], metrics[task]) for task in metrics}
    worths: dict[str, dict[int, float]] = {name: {} for name in names}
    for cell in cells:
        made = {method: choice(session, cell, method).chosen for method in resolved.deciding}
        values = {m: {t: score.value for t, score in of.validation.items()} for m, of in made.items()}
        worths[cell.arm][cell.seed] = merged_worth(values, best, metrics)
    one = set(metrics.values())
    return ArmChoice(worths, best_trial(worths, len(one) > 1 or one.pop().higher_is_better))


def _best(values: list[float], metric: Metric) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max if metric.higher_is_better else min)(finite, default=math.nan)
