"""Which trials of an arm are tried and which one is the arm, by the figures in the folder; so which cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

from saft.experiment.arm_choice import ArmChoice, best_trial, merged_worth
from saft.experiment.arm_trials import ArmTrial
from saft.experiment.cells import Cell
from saft.experiment.session import Session
from saft.experiment.stages.merge_experts import choice, expert_values, merge_name
from saft.tasks import Metric

__all__ = ["arm_choice", "chosen_cells", "drawn_cells", "drawn_trials", "is_chosen"]


def drawn_trials(session: Session, train_size: str, arm: str, foreseen: bool = False) -> list[ArmTrial]:
    """Return the trials of an arm that are tried, as far as is known, in the order of the config.

    Of a search these are the rounds whose draw follows from figures that are known: each of them but the last
    is complete. They depend on no process, so all processes that look at the folder find the same.

    Args:
        session: the experiment in this process.
        train_size: its name.
        arm: its name in the config.
        foreseen: add about as many trials as the budget allows further.

    Raises:
        UserError: a file of figures is damaged.
    """
    trials, search = session.resolved.trials_of(arm), session.resolved.search_of(arm, _upward(session))
    if search is None:
        return trials
    names = session.arm_draws.setdefault((train_size, arm), [])
    over = (train_size, arm) in session.arm_choices
    while not over and (worths := _worths(session, train_size, names)) is not None:
        more = search.next_round({name: fmean(worths[name].values()) for name in names})
        names += [trial.name for trial in more]
        over = not more
    further = [trial.name for trial in search.foreseen(names)] if foreseen and not over else []
    return [trial for trial in trials if trial.name in {*names, *further}]


def drawn_cells(session: Session, foreseen: bool = False) -> list[Cell]:
    """Return the cells of the trials that are tried, as far as is known, in the order in which they are run.

    Args:
        session: the experiment in this process.
        foreseen: add those of about as many trials as the budget of each search allows further.
    """
    config = session.config
    tried = {
        (size, trial.name)
        for size, arm in itertools.product(config.regimes, config.arms)
        for trial in drawn_trials(session, size, arm, foreseen)
    }
    return [cell for cell in session.resolved.cells if (cell.train_size, cell.arm) in tried]


def arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    """Return the choice among the trials of an arm; None as long as a figure that it rests on is missing, or
    a trial that a search would still draw.

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
    return drawn_trials(session, train_size, arm)[0].name if foreseen else None


def _arm_choice(session: Session, train_size: str, arm: str) -> ArmChoice | None:
    worths = _worths(session, train_size, [trial.name for trial in drawn_trials(session, train_size, arm)])
    return None if worths is None else ArmChoice(worths, best_trial(worths, _upward(session)))


def _upward(session: Session) -> bool:
    """Return whether a higher worth is better; worths of different metrics are shares."""
    one = set(session.metrics.values())
    return len(one) > 1 or one.pop().higher_is_better


def _worths(session: Session, train_size: str, names: Sequence[str]) -> dict[str, dict[int, float]] | None:
    """Return trial -> seed -> worth; None where figures are missing."""
    resolved, metrics = session.resolved, session.metrics
    tried = set(names)
    cells = [cell for cell in resolved.cells if cell.train_size == train_size and cell.arm in tried]
    merges = (merge_name(session, cell, method) for cell in cells for method in resolved.deciding)
    if not all(session.folder.figures(f"{name}/validation").is_file() for name in merges):
        return None
    experts = [expert_values(session, cell) for cell in cells]
    best = {task: _best([values[task] for values in experts], metrics[task]) for task in metrics}
    worths: dict[str, dict[int, float]] = {name: {} for name in names}
    for cell in cells:
        made = {method: choice(session, cell, method).chosen for method in resolved.deciding}
        values = {m: {t: score.value for t, score in of.validation.items()} for m, of in made.items()}
        worths[cell.arm][cell.seed] = merged_worth(values, best, metrics)
    return worths


def _best(values: list[float], metric: Metric) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max if metric.higher_is_better else min)(finite, default=math.nan)
