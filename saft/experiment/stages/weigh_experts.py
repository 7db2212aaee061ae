"""A weight for each task in the one merged model: found on validation data, tested beside one coefficient."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from saft.experiment.cells import Cell
from saft.experiment.figure_files import WeightsChoice, WeightsTest
from saft.experiment.paired import groups_of, paired_gain
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.selection import Candidate, Trial, mean_normalized, shared
from saft.experiment.session import Session
from saft.experiment.stages.merge_experts import (
    choice,
    expert_values,
    merge_name,
    recipe,
    score_of,
)
from saft.experiment.stages.step import Step
from saft.experiment.trial_log import TrialLog
from saft.experiment.weight_search import PLACES, weight_search, weights_of
from saft.experiment.weighted_trunk import WeightedTrunk, with_weights
from saft.merge import merge
from saft.merging.merge_check import check
from saft.progress import Bar
from saft.tasks import Examples, Score

__all__ = ["METHOD", "weigh_steps", "weighted_folder", "weighted_trunk", "weights_name", "write_weighted"]

METHOD = "task_arithmetic"
"""The merge whose weights are searched: the weighted sum of the task vectors."""


def weigh_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the steps of the weights, where the config asks for them: search from one coefficient on, test.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    selection = session.config.selection
    if selection.weights == "equal":
        return
    places, tasks, metrics = PLACES[selection.weights], list(session.tasks), session.metrics
    name, rests_on = weights_name(session, cell), session.foundations.weights(cell, METHOD)
    validation_cost = session.examples_of("validation")

    def searched(bar: Bar) -> WeightsChoice:
        experts = expert_values(session, cell)
        start = choice(session, cell, METHOD).shared

        def evaluate(candidate: Candidate) -> dict[str, Score]:
            trunk = weighted_trunk(session, cell).by(weights_of(candidate, tasks))
            return _scores(session, cell, trunk, _examples(session, cell, "validation"))

        log = TrialLog(session.folder.trials(f"{name}/validation"), rests_on)
        validate = log.answering(evaluate, lambda: bar.advance(validation_cost))

        def worth(trial: Trial) -> float:
            return mean_normalized(trial.values, experts, metrics)

        search = weight_search(tasks, places, start, worth, selection.budget, selection.seed)
        trials = search.trials(validate)
        best = shared(trials, experts, metrics)
        weights = {task: list(own) for task, own in weights_of(best.candidate, tasks).items()}
        return WeightsChoice(weights, best.validation, start, [dict(trial.candidate) for trial in trials])

    def tested(bar: Bar) -> WeightsTest:
        made = session.folder.known(f"{name}/validation", WeightsChoice)
        experts, examples = expert_values(session, cell), _examples(session, cell, "test")
        trunk = weighted_trunk(session, cell).by(made.weights)
        scores, groups = _scores(session, cell, trunk, examples), groups_of(examples)

        def by_group() -> list[dict[str, float]]:
            every = [_scores(session, cell, trunk, group) for group in groups]
            return [{task: score.value for task, score in of_group.items()} for of_group in every]

        of_weights = by_group()
        weighted_trunk(session, cell).by({task: [made.start] for task in tasks})
        return WeightsTest(scores, list(paired_gain(of_weights, by_group(), experts, metrics).by_group))

    cost = selection.budget * validation_cost
    yield Step(f"{name}/validation", WeightsChoice, "weights of the tasks", rests_on, cost, searched)
    if session.config.test:
        cost = 3 * session.examples_of("test")
        rests = session.foundations.tested(rests_on)
        yield Step(f"{name}/test", WeightsTest, "test the weights of the tasks", rests, cost, tested)


def weighted_folder(session: Session, cell: Cell) -> Path:
    """Return the checkpoint folder of the merge of a cell with a weight for each task.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    name = f"{METHOD}-{session.config.selection.weights}"
    return session.folder.merge(cell, list(session.tasks), name)


def write_weighted(session: Session, cell: Cell) -> None:
    """Write the merged model with the chosen weights as a checkpoint folder, if they are searched.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    out = weighted_folder(session, cell)
    if session.config.selection.weights != "equal" and not out.exists():
        made = session.folder.known(f"{weights_name(session, cell)}/validation", WeightsChoice)
        merge(with_weights(recipe(session, cell, METHOD, {}), made.weights), out)


def weights_name(session: Session, cell: Cell) -> str:
    """Return what the names of the figures of a cell's weights begin with.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    return f"{merge_name(session, cell, METHOD)}/weights"


@functools.lru_cache(maxsize=1)
def weighted_trunk(session: Session, cell: Cell) -> WeightedTrunk:
    """Read the task vectors of a cell; the last ones are held.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    plan = check(recipe(session, cell, METHOD, {}))
    return WeightedTrunk(ScaledTrunk(session.trunk(cell=cell), {}), plan)


def _examples(session: Session, cell: Cell, split: str) -> dict[str, Examples]:
    splits = session.splits(cell.train_size, cell.seed)
    return {task: getattr(splits[task], split) for task in session.tasks}


def _scores(
    session: Session, cell: Cell, trunk: nn.Module, examples: Mapping[str, Examples]
) -> dict[str, Score]:
    return {task: score_of(session, cell, task, trunk, some) for task, some in examples.items()}
