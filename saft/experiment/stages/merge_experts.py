"""The experts of a cell merged by one method: the coefficient chosen on validation data, then the test."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from saft import calibration
from saft.experiment.cells import Cell
from saft.experiment.folder import team
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.selection import Grid, per_task, shared
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.experiment.stages.train_expert import expert_folder
from saft.merge import merge
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig
from saft.merging.methods import METHODS
from saft.merging.stream import engine
from saft.progress import Bar
from saft.tasks import Score, Splits

__all__ = ["merge_name", "merge_steps", "recipe", "write_merge"]


def merge_steps(session: Session, cell: Cell, method: str) -> Iterator[Step]:
    """Yield the steps of one merge: choose the coefficient, test.

    The task vectors are merged once; every coefficient of the grid scales the result. One pass over the
    validation examples of all tasks is made per coefficient.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    options = session.resolved.merges[method]
    metrics, name = session.metrics, merge_name(session, cell, method)
    validation_cost = session.examples_of("validation")

    def chosen(bar: Bar) -> dict[str, Any]:
        scaled = _merged(session, cell, method)

        def validate(value: float) -> dict[str, Score]:
            bar.stage(f"{method}, coefficient {value:g}")
            scores = _scores(session, cell, scaled, dict.fromkeys(session.tasks, value), "validation")
            bar.advance(validation_cost)
            return scores

        trials = Grid(options.scaling).trials(validate)
        experts = {
            task: session.folder.known(f"{cell}/experts/{task}/training")["validation"]["value"]
            for task in session.tasks
        }
        return {
            "curve": [dataclasses.asdict(trial) for trial in trials],
            "shared": shared(trials, experts, metrics),
            "per_task": per_task(trials, metrics),
        }

    def tested(bar: Bar) -> dict[str, Any]:
        choice = session.folder.known(f"{name}/validation")
        scaled = _merged(session, cell, method)
        one = _scores(session, cell, scaled, dict.fromkeys(session.tasks, choice["shared"]), "test")
        others = {task: value for task, value in choice["per_task"].items() if value != choice["shared"]}
        own = one | _scores(session, cell, scaled, others, "test")
        return {
            "shared": {task: dataclasses.asdict(one[task]) for task in session.tasks},
            "per_task": {task: dataclasses.asdict(own[task]) for task in session.tasks},
        }

    foundations = session.foundations
    rests_on = foundations.merge(cell, method)
    cost = len(options.scaling) * validation_cost
    yield Step(f"{name}/validation", f"merge by {method}", rests_on, cost, chosen)
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
        merge(dataclasses.replace(recipe(session, cell, method), scaling=choice["shared"]), out)


def recipe(session: Session, cell: Cell, method: str) -> MergeConfig:
    """Return the merge of a cell's experts by a method, without a coefficient.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    return MergeConfig(
        method=method,
        base=session.base.path,
        models={task: str(expert_folder(session, cell, task)) for task in session.tasks},
        parameters=session.resolved.merges[method].parameters,
        data=_data(session, method),
    )


def _data(session: Session, method: str) -> DataConfig:
    """Return what a method reads: validation examples, where it reads any, and no more than the run."""
    default, most = DataConfig(), session.config.validation_examples
    if not METHODS.get(method).calibration or most is None:
        return default
    return DataConfig(examples=min(most, default.examples))


@functools.lru_cache(maxsize=1)
def _merged(session: Session, cell: Cell, method: str) -> ScaledTrunk:
    """Merge the task vectors; the last merge is held, since its test follows the choice."""
    with calibration.collected(check(recipe(session, cell, method))) as ready:
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
