"""The experts of a cell merged by one method: the coefficient chosen on validation data, then the test."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from saft import calibration
from saft.experiment.cells import Cell
from saft.experiment.folder import team
from saft.experiment.sampled_search import Interval, Tpe
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.selection import (
    Candidate,
    Grid,
    Search,
    Trial,
    mean_normalized,
    per_task,
    shared,
)
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.experiment.stages.train_expert import expert_folder
from saft.experiment.trial_log import TrialLog
from saft.merge import merge
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig
from saft.merging.methods import METHODS
from saft.merging.stream import engine
from saft.progress import Bar
from saft.tasks import Metric, Score, Splits

__all__ = ["chosen", "curve", "merge_name", "merge_steps", "recipe", "write_merge"]


def merge_steps(session: Session, cell: Cell, method: str) -> Iterator[Step]:
    """Yield the steps of one merge: choose the coefficient, test.

    The task vectors are merged once for each value of the method's parameters; every coefficient scales the
    result. One pass over the validation examples of all tasks is made per candidate, and a search that was
    interrupted goes on where it stopped.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    metrics, name = session.metrics, merge_name(session, cell, method)
    validation_cost = session.examples_of("validation")

    @functools.cache
    def experts() -> dict[str, float]:
        return {
            task: session.folder.known(f"{cell}/experts/{task}/training")["validation"]["value"]
            for task in session.tasks
        }

    search = _search(session, method, lambda trial: mean_normalized(trial.values, experts(), metrics))

    def searched(bar: Bar) -> dict[str, Any]:
        def evaluate(candidate: Candidate) -> dict[str, Score]:
            bar.stage(f"{method}, {', '.join(f'{key} {value:g}' for key, value in candidate.items())}")
            coefficients = dict.fromkeys(session.tasks, candidate["scaling"])
            scaled = _merged(session, cell, method, _parameters(candidate))
            return _scores(session, cell, scaled, coefficients, "validation")

        log = TrialLog(session.folder.trials(f"{name}/validation"), rests_on)
        answer = log.answering(evaluate)

        def validate(candidate: Candidate) -> dict[str, Score]:
            scores = answer(candidate)
            bar.advance(validation_cost)
            return scores

        choice = _choice(search.trials(validate), experts(), metrics)
        log.remove()
        return choice

    def tested(bar: Bar) -> dict[str, Any]:
        choice = session.folder.known(f"{name}/validation")
        scaled = _merged(session, cell, method, tuple(choice.get("parameters", {}).items()))
        one = _scores(session, cell, scaled, dict.fromkeys(session.tasks, choice["shared"]), "test")
        others = {task: value for task, value in choice["per_task"].items() if value != choice["shared"]}
        own = one | _scores(session, cell, scaled, others, "test")
        return {
            "shared": {task: dataclasses.asdict(one[task]) for task in session.tasks},
            "per_task": {task: dataclasses.asdict(own[task]) for task in session.tasks},
        }

    foundations = session.foundations
    rests_on = foundations.merge(cell, method)
    cost = search.evaluations * validation_cost
    yield Step(f"{name}/validation", f"merge by {method}", rests_on, cost, searched)
    if session.config.test:
        cost = 2 * session.examples_of("test")  # at most: once shared, once per task
        yield Step(f"{name}/test", f"test {method}", foundations.tested(rests_on), cost, tested)


def merge_name(session: Session, cell: Cell, method: str) -> str:
    """Return what the names of a merge's figures begin with.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    return f"{cell}/merges/{team(list(session.tasks))}/{method}"


def write_merge(session: Session, cell: Cell, method: str) -> None:
    """Write the merged model with its shared coefficient as a checkpoint folder, if it is not there.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    out = session.folder.merge(cell, list(session.tasks), method)
    if not out.exists():
        choice = session.folder.known(f"{merge_name(session, cell, method)}/validation")
        config = recipe(session, cell, method, choice.get("parameters", {}))
        merge(dataclasses.replace(config, scaling=choice["shared"]), out)


def chosen(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the trial that was chosen for all tasks, as the figures of a merge hold it.

    Args:
        choice: those figures.
    """
    return next(trial for trial in curve(choice) if trial["candidate"] == choice["shared"])


def curve(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of the one merged vector that was chosen, at each coefficient that was tried.

    Args:
        choice: the figures of a merge.
    """
    return [trial for trial in choice["curve"] if trial.get("parameters") == choice.get("parameters")]


def recipe(session: Session, cell: Cell, method: str, parameters: Mapping[str, float]) -> MergeConfig:
    """Return the merge of a cell's experts by a method, without a coefficient.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
        parameters: those that were searched.
    """
    return MergeConfig(
        method=method,
        base=session.base.path,
        models={task: str(expert_folder(session, cell, task)) for task in session.tasks},
        parameters=session.resolved.merges[method].parameters | dict(parameters),
        data=_data(session, method),
    )


def _data(session: Session, method: str) -> DataConfig:
    """Return what a method reads: validation examples, where it reads any, and no more than the run."""
    default, most = DataConfig(), session.config.validation_examples
    if not METHODS.get(method).calibration or most is None:
        return default
    return DataConfig(examples=min(most, default.examples))


def _search(session: Session, method: str, worth: Callable[[Trial], float]) -> Search:
    """Return the search of a merge's parameters and coefficient, the coefficient last."""
    options, selection = session.resolved.merges[method], session.config.selection
    grid = Grid({**options.choices, "scaling": options.scaling})
    if selection.search == "grid" or grid.evaluations == 1:
        return grid
    low, high = min(options.scaling), max(options.scaling)
    scaling = Interval(low, high) if low < high else options.scaling
    values = {**options.choices, "scaling": scaling}
    return Tpe(values, worth, selection.budget, selection.seed)


def _parameters(candidate: Candidate) -> tuple[tuple[str, float], ...]:
    return tuple((name, value) for name, value in candidate.items() if name != "scaling")


def _choice(
    trials: Sequence[Trial], experts: Mapping[str, float], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    """Return every trial and what was chosen, as plain values; parameters only where they were searched.

    For each task its own coefficient is chosen among those of the one merge that was chosen for all.
    """
    best = shared(trials, experts, metrics)
    parameters = _parameters(best.candidate)
    of_tasks = per_task([trial for trial in trials if _parameters(trial.candidate) == parameters], metrics)
    return {
        "curve": [
            {
                "candidate": trial.candidate["scaling"],
                "validation": {task: dataclasses.asdict(score) for task, score in trial.validation.items()},
                **_searched(_parameters(trial.candidate)),
            }
            for trial in trials
        ],
        "shared": best.candidate["scaling"],
        "per_task": {task: trial.candidate["scaling"] for task, trial in of_tasks.items()},
        **_searched(parameters),
    }


def _searched(parameters: tuple[tuple[str, float], ...]) -> dict[str, Any]:
    return {"parameters": dict(parameters)} if parameters else {}


@functools.lru_cache(maxsize=1)
def _merged(
    session: Session, cell: Cell, method: str, parameters: tuple[tuple[str, float], ...]
) -> ScaledTrunk:
    """Merge the task vectors; the last merge is held, since one follows the other at other coefficients."""
    with calibration.collected(check(recipe(session, cell, method, dict(parameters)))) as ready:
        return ScaledTrunk(session.trunk(arm=cell.arm), dict(engine.stream(ready)))


def _scores(
    session: Session, cell: Cell, scaled: ScaledTrunk, coefficients: dict[str, float], split: str
) -> dict[str, Score]:
    """Return task -> score of the merged model at the task's coefficient."""
    scores = {}
    for task, value in coefficients.items():
        splits: Splits = session.splits(cell.train_size, cell.seed)[task]
        bound = session.tasks[task]
        model = bound.model(scaled.by(value), head_from=session.folder.expert(cell, task))
        scores[task] = session.score(task, model, getattr(splits, split))
    return scores
