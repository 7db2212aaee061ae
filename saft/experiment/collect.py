"""The figures of a folder -> `Results`, which results.json and the report are made of."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from saft.errors import UserError
from saft.experiment.arm_facts import arm_facts
from saft.experiment.cells import Cell
from saft.experiment.errors_between_arms import paired_errors
from saft.experiment.failures import failed_cells
from saft.experiment.figure_files import (
    Choice,
    ChoiceTest,
    HeldOutCurve,
    Measurement,
    StartMerge,
    Training,
    WeightsChoice,
    WeightsTest,
)
from saft.experiment.selection import mean_normalized
from saft.experiment.session import Session
from saft.experiment.stages import (
    METHOD,
    arm_choice,
    choice,
    chosen_cells,
    drawn_trials,
    every_step,
    expert_values,
    held_out_name,
    interference_name,
    measured_name,
    merge_name,
    rounds_before,
    weights_name,
)
from saft.files.checkpoint import tensor_headers
from saft.interference.culprit import verdict_of_merges
from saft.interference.quantity import Quantity
from saft.merging.methods import METHODS
from saft.merging.outputs.parts import kept_bytes
from saft.merging.per_task import PerTaskMethod
from saft.report.cell_result import (
    BaseResult,
    CellResult,
    Chosen,
    ChosenPerTask,
    CurvePoint,
    ExpertResult,
    KeptParts,
    MergeFigures,
    SearchedCandidate,
    Weighted,
)
from saft.report.plain_arms import plain_arms
from saft.report.results import ArmSearch, PairedError, Protocol, Results, TaskFacts, TrialFacts
from saft.tasks import Score
from saft.training.train_result import versions

__all__ = ["collect"]

_CHOSEN = (
    " Of an arm with choices, each trial is merged by every method{}; the one whose merged models have the"
    " best validation score, mean over tasks, methods and seeds, is the arm at its train size."
)


def collect(session: Session, is_whole: bool = True) -> Results:
    """Return the results of an experiment: of the cells all of whose figures are known.

    An arm with `choices` that has no trial to choose is among those that failed only.

    Args:
        session: of this process.
        is_whole: whether all are known; where not, it is looked for each figure first.

    Raises:
        UserError: a file of figures is damaged, or contradicts the others.
    """
    figures, chosen = _Figures(session), chosen_cells(session)
    cells = [figures.cell(cell) for cell in chosen if is_whole or _is_finished(session, cell)]
    trials = {arm: trial for arm in session.config.arms if (trial := _first_trial(session, chosen, arm))}
    arms = {arm: arm_facts(session, trial) for arm, trial in trials.items()}
    try:
        return Results(
            versions=versions(),
            device="; ".join(dict.fromkeys(figures.devices)),
            config=session.resolved.plain(),
            protocol=_protocol(session),
            arms=arms,
            base={name: figures.base(name) for name in session.scored},
            cells=cells,
            quantities=figures.quantities,
            arm_searches=list(_arm_searches(session)),
            paired_errors=list(figures.paired_errors(plain_arms(arms))),
            failed=failed_cells(session),
        )
    except ValueError as error:
        raise UserError(
            f"{session.folder.path / 'figures'}: {error}; delete these figures, and they are computed again"
        ) from None


class _Figures:
    """Reads figures, and remembers which devices and quantities it has met."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tests = session.config.test
        self._folder = session.folder
        self.devices: list[str] = []
        self.quantities: dict[str, Quantity] = {}
        self._by_example: dict[str, dict[str, dict[int, dict[str, dict[str, list[float]]]]]] = {}

    def base(self, task: str) -> BaseResult:
        return BaseResult(self._score(f"base/{task}/validation"), self._test(f"base/{task}"))

    def cell(self, cell: Cell) -> CellResult:
        experts = {task: self._expert(cell, task) for task in self.session.tasks}
        measured = self._measured(interference_name(self.session, cell))
        for task in self.session.tasks:
            for quantity, value in self._measured(f"{cell}/experts/{task}/sharpness").items():
                measured.setdefault(quantity, {})[task] = value
        for name in self.session.resolved.measures:
            measured |= self._measured(measured_name(self.session, cell, name))
        spent = [expert.seconds for expert in experts.values()]
        last = rounds_before(self.session, cell)
        for number in range(1, last + 1):
            name = f"{cell}/{self._folder.start_name(number, last)}"
            spent.append(self._folder.known(name, StartMerge).seconds)
        return CellResult(
            train_size=cell.train_size,
            arm=self.session.resolved.arm_of(cell),
            seed=cell.seed,
            experts=experts,
            merges={method: self._merge(cell, method) for method in self.session.resolved.merges},
            measured=measured,
            seconds=_total(spent),
            verdict=verdict_of_merges(measured, self.quantities, self._validation),
        )

    def _expert(self, cell: Cell, task: str) -> ExpertResult:
        name = f"{cell}/experts/{task}"
        training = self._folder.known(f"{name}/training", Training)
        self.devices.append(training.device)
        rounds = range(1, self.session.resolved.arms[cell.arm].rounds + 1)
        names = [f"{cell}/{self._folder.round_name(number, task)}" for number in rounds]
        spent = [training.seconds, *(self._folder.known(name, Training).seconds for name in names)]
        given = self.session.resolved.is_given(cell.arm)
        return ExpertResult(
            validation=training.validation,
            test=self._test(name),
            steps=None if given else training.steps,
            seconds=_total(spent),
            passes=None if given else self.session.resolved.arms[cell.arm].passes,
            memory=training.memory,
            losses=training.losses,
            held_out=self._kept(name),
        )

    def _kept(self, model: str) -> dict[str, BaseResult]:
        """Return task that is held out -> a model's scores there; its figures begin with `model`."""
        return {
            held: BaseResult(self._score(f"{place}/validation"), self._test(place))
            for held in self.session.held_out
            for place in [held_out_name(model, held)]
        }

    def _merge(self, cell: Cell, method: str) -> MergeFigures:
        made = choice(self.session, cell, method)
        name = f"{merge_name(self.session, cell, method)}/test"
        test = self._folder.known(name, ChoiceTest) if self.tests else None
        if test is not None:
            of_arm = self._by_example.setdefault(cell.train_size, {}).setdefault(
                self.session.resolved.arm_of(cell), {}
            )
            of_arm.setdefault(cell.seed, {})[method] = test.by_example
        scores = {point.candidate: point.validation for point in made.of_the_chosen}
        curves, held_out = self._held_out(cell, method)
        parameters = self.session.resolved.merges[method].parameters | made.parameters
        return MergeFigures(
            parameters=parameters,
            curve=[
                CurvePoint(at, scores[at], {t: of[at] for t, of in curves.items() if at in of})
                for at in sorted(scores)
            ],
            shared=Chosen(made.shared, test.shared if test else None, held_out),
            per_task=ChosenPerTask(made.per_task, test.per_task if test else None),
            search=self._search(cell, made),
            weighted=self._weighted(cell, method),
            parts=self._parts(method, parameters),
        )

    def _held_out(self, cell: Cell, method: str) -> tuple[dict[str, dict[float, Score]], dict[str, Score]]:
        """Return task that is held out -> coefficient -> validation score, and task -> test score."""
        if self.session.resolved.keeps_parts(method):
            return {}, {}
        name = merge_name(self.session, cell, method)
        places = {held: held_out_name(name, held) for held in self.session.held_out}
        curves = {
            held: self._folder.known(f"{place}/validation", HeldOutCurve) for held, place in places.items()
        }
        return (
            {held: {point.candidate: point.score for point in of.curve} for held, of in curves.items()},
            {held: self._score(f"{place}/test") for held, place in places.items() if self.tests},
        )

    def _parts(self, method: str, parameters: dict[str, Any]) -> KeptParts | None:
        made = METHODS.get(self.session.resolved.method(method)).build(parameters)
        if not isinstance(made, PerTaskMethod):
            return None
        return KeptParts(*kept_bytes(made, self._shapes))

    @functools.cached_property
    def _validation(self) -> dict[str, int]:
        """Task -> number of the examples that measures read."""
        return {task: of["validation"] for task, of in self.session.sizes.items()}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that merges work on."""
        headers = tensor_headers(self.session.folder.base)
        return {name: tuple(of.shape) for name, of in headers.items() if of.dtype.is_floating_point}

    def paired_errors(self, baselines: list[str]) -> Iterator[PairedError]:
        """Yield the errors of differences between arms whose cells were asked for."""
        tasks_of: dict[str, list[str]] = {}
        for task, metric in self.session.metrics.items():
            tasks_of.setdefault(metric.name, []).append(task)
        for train_size, by_arm in self._by_example.items():
            yield from paired_errors(train_size, by_arm, baselines, tasks_of, self.session.resolved.deciding)

    def _search(self, cell: Cell, made: Choice) -> list[SearchedCandidate]:
        experts = expert_values(self.session, cell)
        search = []
        for point in made.curve:
            values = {task: score.value for task, score in point.validation.items()}
            worth = mean_normalized(values, experts, self.session.metrics)
            search.append(SearchedCandidate({**point.parameters, "scaling": point.candidate}, worth))
        return search

    def _weighted(self, cell: Cell, method: str) -> Weighted | None:
        if self.session.config.selection.weights == "equal" or method != METHOD:
            return None
        name = weights_name(self.session, cell)
        made = self._folder.known(f"{name}/validation", WeightsChoice)
        test = self._folder.known(f"{name}/test", WeightsTest) if self.tests else None
        scores, gain = (test.scores, test.gain) if test else (None, None)
        return Weighted(made.weights, made.validation, scores, gain, self._kept(name))

    def _measured(self, name: str) -> dict[str, Any]:
        figures = self._folder.known(name, Measurement)
        self.quantities |= figures.quantities
        return dict(figures.measured)

    def _score(self, name: str) -> Score:
        return self._folder.known(name, Score)

    def _test(self, name: str) -> Score | None:
        return self._score(f"{name}/test") if self.tests else None


def _total(seconds: list[float | None]) -> float | None:
    """Return the sum; None where one of them is not known."""
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None


def _protocol(session: Session) -> Protocol:
    """Return what a reader needs to know before any number."""
    config = session.config
    return Protocol(
        tasks={name: _facts(session, name) for name in session.tasks},
        seeds=list(config.seeds),
        train_sizes=dict(config.regimes),
        coefficient=(
            "The scaling coefficient is chosen on the validation examples only. Shared: one for all tasks,"
            " the one with the best mean normalized validation figure. Per task: for each task the one that"
            " validates best on it, so up to one model per task."
            + (_chosen(session) if any("choices" in keys for keys in config.arms.values()) else "")
        ),
        test_reads=(
            "The test split is read once: by the experts and the chosen merges, after every choice was made."
            if config.test
            else "The test split was not read: every figure is of the validation split."
        ),
        tests=config.test,
        held_out={name: _facts(session, name) for name in session.held_out},
    )


def _chosen(session: Session) -> str:
    every = len(session.resolved.deciding) == len(session.resolved.merges)
    return _CHOSEN.format("" if every else " that gives one model")


def _is_finished(session: Session, cell: Cell) -> bool:
    return all(step.is_done(session.folder) for step in every_step(session, cell))


def _first_trial(session: Session, chosen: Sequence[Cell], arm: str) -> str | None:
    """Return the trial that is the arm at the first train size; None where none is chosen at any."""
    return next((cell.arm for cell in chosen if session.resolved.arm_of(cell) == arm), None)


def _arm_searches(session: Session) -> Iterator[ArmSearch]:
    """Yield what was tried of each arm with `choices`, at each train size."""
    metrics = set(session.metrics.values())
    searched = [arm for arm, keys in session.config.arms.items() if "choices" in keys]
    for size, arm in itertools.product(session.config.regimes, searched):
        made = arm_choice(session, size, arm)
        if made is not None and made.chosen is not None:
            trials = {
                trial.name: TrialFacts(trial.values, arm_facts(session, trial.name), made.worths[trial.name])
                for trial in drawn_trials(session, size, arm)
            }
            combinations = len(session.config.trials_of(arm))
            metric = next(iter(metrics)) if len(metrics) == 1 else None
            yield ArmSearch(size, arm, trials, made.chosen, combinations, metric)


def _facts(session: Session, name: str) -> TaskFacts:
    task, facts = session.scored[name], session.scored[name].facts()
    sizes = (session.sizes | session.held_out_sizes)[name]
    return TaskFacts(
        kind=(session.config.tasks | session.config.held_out)[name]["kind"],
        metric=task.metric,
        train={size: counts[name] for size, counts in session.train_counts.items() if name in session.tasks},
        validation=sizes["validation"],
        test=sizes["test"] if session.config.test else None,
        labels=facts.pop("labels", None),
        facts=facts,
    )
