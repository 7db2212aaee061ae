"""The experts of a cell merged by one method: the coefficient chosen on validation data, then the test."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from saft import calibration
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.figure_files import Choice, ChoiceTest, Training, ValidatedCandidate
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
from saft.experiment.stages.trained_models import expert_folder, start_folder
from saft.experiment.task_trunks import TaskTrunks
from saft.experiment.trial_log import TrialLog
from saft.merge import merge
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream import engine
from saft.progress import Bar
from saft.tasks import Examples, Metric, Outcomes, Score, TaskModel

__all__ = [
    "choice",
    "expert_values",
    "merge_name",
    "merge_steps",
    "merged_trunk",
    "recipe",
    "score_of",
    "write_merge",
]

_MOST_BY_EXAMPLE = 10_000
"""Test examples of a task whose parts in its score are kept: what they take grows with the square."""


def merge_steps(session: Session, cell: Cell, method: str) -> Iterator[Step]:
    """Yield the steps of one merge: choose the coefficient, test.

    The task vectors are merged once for each value of the method's parameters; every coefficient scales the
    result. One pass over the validation examples of all tasks is made per candidate, and a search that was
    interrupted goes on where it stopped. Of a method that keeps a part per task, each task is scored with its
    own model.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    metrics, name = session.metrics, merge_name(session, cell, method)
    validation_cost = session.examples_of("validation")

    @functools.cache
    def experts() -> dict[str, float]:
        return expert_values(session, cell)

    search = _search(session, method, lambda trial: mean_normalized(trial.values, experts(), metrics))

    def searched(bar: Bar) -> Choice:
        if any(training.diverged for training in _trainings(session, cell).values()):
            return _no_choice(session, method)

        def evaluate(candidate: Candidate) -> dict[str, Score]:
            bar.stage(f"{method}, {', '.join(f'{key} {value:g}' for key, value in candidate.items())}")
            coefficients = dict.fromkeys(session.tasks, candidate["scaling"])
            scaled = merged_trunk(session, cell, method, _parameters(candidate))
            return _scores(session, cell, scaled, coefficients, "validation")

        log = TrialLog(session.folder.trials(f"{name}/validation"), rests_on)
        validate = log.answering(evaluate, lambda: bar.advance(validation_cost))
        return _choice(search.trials(validate), experts(), metrics)

    def tested(bar: Bar) -> ChoiceTest:
        made = choice(session, cell, method)
        scaled = merged_trunk(session, cell, method, tuple(made.parameters.items()))
        splits = session.splits(cell.train_size, cell.seed)
        outcomes = {
            task: session.outcomes(
                task, _model(session, cell, task, scaled.by(made.shared, task)), splits[task].test
            )
            for task in session.tasks
        }
        one = {task: of.score() for task, of in outcomes.items()}
        others = {task: value for task, value in made.per_task.items() if value != made.shared}
        own = one | _scores(session, cell, scaled, others, "test")
        return ChoiceTest(one, {task: own[task] for task in session.tasks}, _by_example(outcomes))

    foundations = session.foundations
    rests_on = foundations.merge(cell, method)
    cost = search.evaluations * validation_cost
    decides = method in session.resolved.deciding
    yield Step(f"{name}/validation", Choice, f"merge by {method}", rests_on, cost, searched, decides)
    if session.config.test:
        cost = 2 * session.examples_of("test")  # at most: once shared, once per task
        rests_on = foundations.tested(rests_on)
        yield Step(f"{name}/test", ChoiceTest, f"test {method}", rests_on, cost, tested)


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

    A method that keeps a part per task gives a folder of parts, as it does in `saft merge`.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    out = session.folder.merge(cell, list(session.tasks), method)
    if not out.exists():
        made = choice(session, cell, method)
        config = recipe(session, cell, method, made.parameters)
        merge(dataclasses.replace(config, scaling=made.shared), out)


def choice(session: Session, cell: Cell, method: str) -> Choice:
    """Return what was chosen for a merge, and from what.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.

    Raises:
        UserError: it is not known yet, or its file is damaged.
    """
    name = f"{merge_name(session, cell, method)}/validation"
    made = session.folder.known(name, Choice)
    if made.per_task.keys() != session.tasks.keys():
        tasks = ", ".join(session.tasks)
        raise UserError(
            f"{session.folder.figures(name)}: per_task: must be of {tasks}; "
            "delete the file, and it is computed again"
        )
    return made


def expert_values(session: Session, cell: Cell) -> dict[str, float]:
    """Return task -> validation value of its expert, to which merges are normalized.

    Args:
        session: the experiment in this process.
        cell: whose experts they are.
    """
    return {task: training.validation.value for task, training in _trainings(session, cell).items()}


def recipe(session: Session, cell: Cell, method: str, parameters: Mapping[str, float]) -> MergeConfig:
    """Return the merge of a cell's experts by a method, without a coefficient.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
        parameters: those that were searched.
    """
    return MergeConfig(
        method=session.resolved.method(method),
        base=str(start_folder(session, cell)),
        models={task: str(expert_folder(session, cell, task)) for task in session.tasks},
        parameters=session.resolved.merges[method].parameters | dict(parameters),
        data=_data(session, cell, method),
    )


def _trainings(session: Session, cell: Cell) -> dict[str, Training]:
    names = {task: f"{cell}/experts/{task}/training" for task in session.tasks}
    return {task: session.folder.known(name, Training) for task, name in names.items()}


def _data(session: Session, cell: Cell, method: str) -> DataConfig:
    """Return what a method reads: validation examples, where it reads any, and no more than the run."""
    default, most = DataConfig(), session.config.validation_examples
    if not METHODS.get(session.resolved.method(method)).calibration:
        return default
    declared = session.config.tasks if session.resolved.is_given(cell.arm) else {}  # others say it themselves
    return DataConfig(declared, examples=default.examples if most is None else min(most, default.examples))


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


def _choice(trials: Sequence[Trial], experts: Mapping[str, float], metrics: Mapping[str, Metric]) -> Choice:
    """Return every trial and what was chosen.

    For each task its own coefficient is chosen among those of the one merge that was chosen for all.
    """
    best = shared(trials, experts, metrics)
    parameters = _parameters(best.candidate)
    of_tasks = per_task([trial for trial in trials if _parameters(trial.candidate) == parameters], metrics)
    curve = [
        ValidatedCandidate(trial.candidate["scaling"], trial.validation, dict(_parameters(trial.candidate)))
        for trial in trials
    ]
    own = {task: trial.candidate["scaling"] for task, trial in of_tasks.items()}
    return Choice(curve, best.candidate["scaling"], own, dict(parameters))


def _no_choice(session: Session, method: str) -> Choice:
    """Return what there is of a merge one of whose experts diverged: a candidate without a score."""
    options = session.resolved.merges[method]
    nothing = {t: Score(math.nan, None, sizes["validation"]) for t, sizes in session.sizes.items()}
    coefficient, parameters = options.scaling[0], {key: of[0] for key, of in options.choices.items()}
    curve = [ValidatedCandidate(coefficient, nothing, parameters)]
    return Choice(curve, coefficient, dict.fromkeys(session.tasks, coefficient), dict(parameters))


@functools.lru_cache(maxsize=1)
def merged_trunk(
    session: Session, cell: Cell, method: str, parameters: tuple[tuple[str, float], ...]
) -> ScaledTrunk | TaskTrunks:
    """Merge the task vectors; the last merge is held, since one follows the other at other coefficients.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
        parameters: those that were searched.
    """
    with calibration.collected(check(recipe(session, cell, method, dict(parameters)))) as ready:
        trunk = session.trunk(cell=cell)
        if isinstance(ready.method, PerTaskMethod):
            return TaskTrunks(ScaledTrunk(trunk, {}), ready)
        return ScaledTrunk(trunk, dict(engine.stream(ready)))


def _scores(
    session: Session, cell: Cell, scaled: ScaledTrunk | TaskTrunks, coefficients: dict[str, float], split: str
) -> dict[str, Score]:
    """Return task -> score of the merged model at the task's coefficient."""
    splits = session.splits(cell.train_size, cell.seed)
    return {
        task: score_of(session, cell, task, scaled.by(value, task), getattr(splits[task], split))
        for task, value in coefficients.items()
    }


def score_of(session: Session, cell: Cell, task: str, trunk: nn.Module, examples: Examples) -> Score:
    """Return the score of a merged trunk on a task, with the head of the task's expert.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        task: the task's name.
        trunk: set to the merge.
        examples: of the task.
    """
    return session.score(task, _model(session, cell, task, trunk), examples)


def _model(session: Session, cell: Cell, task: str, trunk: nn.Module) -> TaskModel:
    return session.tasks[task].model(trunk, head_from=session.head_folder(cell, task))


def _by_example(outcomes: Mapping[str, Outcomes]) -> dict[str, list[float]]:
    """Return task -> what each example adds to the score, of the tasks that have not too many."""
    return {
        task: [round(value, 6) for value in of.by_example().tolist()]
        for task, of in outcomes.items()
        if 2 <= len(of.rows[0]) <= _MOST_BY_EXAMPLE
    }
