"""One cell of an experiment, as `results.json` holds it: experts, merges, and what was measured of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from saft.config import Range
from saft.interference.quantity import Quantity, numbers_of
from saft.tasks.metric import Score

__all__ = [
    "BaseResult",
    "CellResult",
    "Chosen",
    "ChosenPerTask",
    "CurvePoint",
    "ExpertResult",
    "FailedCell",
    "KeptParts",
    "Measurements",
    "MergeFigures",
    "SearchedCandidate",
    "Split",
    "Weighted",
    "failure_in_words",
]


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _score(value: Any) -> Any:
    return (
        {**value, "value": _number(value["value"])} if isinstance(value, dict) and "value" in value else value
    )


Number = Annotated[float, BeforeValidator(_number)]  # JSON has no infinity and no NaN: there it is null
MeasuredScore = Annotated[Score, BeforeValidator(_score)]
Split = Literal["validation", "test"]
_Pairs = Number | dict[str, Number] | dict[str, dict[str, Number]]
Measurements = (
    _Pairs | dict[str, dict[str, dict[str, Number]]] | dict[str, dict[str, dict[str, dict[str, Number]]]]
)


@dataclass(frozen=True)
class BaseResult:
    """Scores of one model on one task, with the head that the pretrained model gives it."""

    validation: MeasuredScore
    test: MeasuredScore | None = None

    def on(self, split: Split) -> Score | None:
        """Return the score on one split."""
        return self.test if split == "test" else self.validation


@dataclass(frozen=True)
class ExpertResult:
    """One fine-tuned model on its own task.

    Args:
        validation, test: its scores; no test where the split was not read.
        steps: optimizer steps that were taken, or chosen; None of an expert that was given.
        seconds: wall time of the trainings, of all rounds; None where it is not known.
        passes: forward and backward passes that were made; None where it is not known.
        memory: the most that the training took, bytes: on a GPU what was allocated there, else what the
            process held; None where it is not known.
        losses: [step, loss of its batch], as the training logged them; empty where they are not known.
        held_out: task that is held out -> its scores there.
    """

    validation: MeasuredScore
    test: MeasuredScore | None
    steps: int | None
    seconds: float | None = None
    passes: float | None = None
    memory: float | None = None
    losses: list[tuple[int, Number]] = field(default_factory=list)
    held_out: dict[str, BaseResult] = field(default_factory=dict)

    def on(self, split: Split) -> Score | None:
        """Return the score on one split."""
        return self.test if split == "test" else self.validation


@dataclass(frozen=True)
class CurvePoint:
    """The merge at one scaling coefficient: task -> its validation score there, and the same held out."""

    coefficient: float
    validation: dict[str, MeasuredScore]
    held_out: dict[str, MeasuredScore] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """One coefficient for all tasks, and the test scores there, also on tasks held out: a single model."""

    coefficient: float
    test: dict[str, MeasuredScore] | None = None
    held_out: dict[str, MeasuredScore] = field(default_factory=dict)


@dataclass(frozen=True)
class ChosenPerTask:
    """A coefficient for each task, and each task's score at its own: up to one model per task."""

    coefficients: dict[str, float]
    test: dict[str, MeasuredScore] | None = None


@dataclass(frozen=True)
class SearchedCandidate:
    """One evaluation of a search: validation examples of all tasks, once.

    Args:
        values: what was searched -> its value, the scaling coefficient ("scaling") among it.
        worth: by which the best is chosen: validation score over that of the expert, mean over tasks.
    """

    values: dict[str, float]
    worth: Number


@dataclass(frozen=True)
class Weighted:
    """One model with a weight for each task, or several along the layers.

    Args:
        weights: task -> its weight, or its weights from the first to the last layer.
        validation, test: task -> score; no test where the split was not read.
        gain: by how much it is better than one shared coefficient on each group of test examples, in parts
            of the experts' scores, mean over the tasks; see `PairedGain`.
        held_out: task that is held out -> its scores there.
    """

    weights: dict[str, list[float]]
    validation: dict[str, MeasuredScore]
    test: dict[str, MeasuredScore] | None = None
    gain: list[Number] | None = None
    held_out: dict[str, BaseResult] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptParts:
    """What is stored beside the base where a merge keeps a part per task, in bytes.

    Args:
        shared: of what all tasks share.
        each: of the part of each task.
    """

    shared: int
    each: int


@dataclass(frozen=True)
class MergeFigures:
    """The experts of one cell merged by one method.

    Args:
        parameters: of the method, those that were searched as they were chosen.
        curve: the merge of these parameters at each coefficient that was tried.
        shared, per_task: what was chosen on the curve.
        search: every evaluation, in its order; empty where it is not known.
        weighted: with a weight for each task, where these were searched too.
        parts: what is stored where each task has a model of its own, made of what all share and a part of
            its own, which each task's scores are of then; None where one model is for all tasks.
    """

    parameters: dict[str, Any]
    curve: list[CurvePoint]
    shared: Chosen
    per_task: ChosenPerTask
    search: list[SearchedCandidate] = field(default_factory=list)
    weighted: Weighted | None = None
    parts: KeptParts | None = None


@dataclass(frozen=True)
class CellResult:
    """Everything of one arm at one train size with one seed.

    Args:
        train_size, arm, seed: which cell it is.
        experts: task -> its expert.
        merges: method -> its merge.
        measured: quantity -> number, task -> number, or task -> task -> number; deeper where
            the quantity has more axes; see `Results.quantities`.
        seconds: wall time of all trainings, and of the merges between rounds; None where it is not known.
        verdict: sentences on who hurts whom in the merges, as `saft measure` tells it; empty where no merge
            was measured for it.
    """

    train_size: str
    arm: str
    seed: int
    experts: dict[str, ExpertResult]
    merges: dict[str, MergeFigures]
    measured: dict[str, Measurements] = field(default_factory=dict)
    seconds: float | None = None
    verdict: list[str] = field(default_factory=list)

    def problems(
        self, tasks: set[str], tests: bool, quantities: Mapping[str, Quantity], held_out: Collection[str] = ()
    ) -> Iterator[str]:
        """Yield what contradicts the rest of the results.

        Args:
            tasks: those of the experiment.
            tests: whether the test split was read.
            quantities: name -> what is measured.
            held_out: the tasks that are held out.
        """
        if set(self.experts) != tasks:
            there = ", ".join(self.experts) or "none"
            yield f"experts: must be of {', '.join(sorted(tasks))}, but are of {there}"
        if any((expert.test is not None) != tests for expert in self.experts.values()):
            yield f"experts: protocol.tests is {tests}, which the test scores contradict"
        for method, merge in self.merges.items():
            chosen = {merge.shared.coefficient, *merge.per_task.coefficients.values()}
            if not chosen <= {point.coefficient for point in merge.curve}:
                yield f"merges.{method}: its curve lacks a coefficient that was chosen"
            for name in {name for candidate in merge.search for name in candidate.values} - {"scaling"}:
                if problem := Range().problem(merge.parameters.get(name)):
                    yield f"merges.{method}.parameters.{name}: {problem}"
            scored = [set(merge.per_task.coefficients), *(set(point.validation) for point in merge.curve)]
            for test in (merge.shared.test, merge.per_task.test):
                if (test is not None) != tests:
                    yield f"merges.{method}: protocol.tests is {tests}, which its test scores contradict"
                scored.append(tasks if test is None else set(test))
            if (weighted := merge.weighted) is not None:
                scored += [set(weighted.weights), set(weighted.validation)]
                scored.append(tasks if weighted.test is None else set(weighted.test))
            if any(names != tasks for names in scored):
                yield f"merges.{method}: its scores must be of {', '.join(sorted(tasks))}"
        if strangers := sorted({*self._held_out()} - {*held_out}):
            yield f"held_out: protocol.held_out has no {', '.join(strangers)}"
        for name, value in self.measured.items():
            if name not in quantities:
                yield f"measured.{name}: quantities does not say what it is"
            elif any(len(key) != len(quantities[name].axes) for key, _ in numbers_of(value)):
                axes = ", ".join(quantities[name].axes) or "no axes"
                yield f"measured.{name}: is not nested as quantities says: {axes}"

    def _held_out(self) -> Iterator[str]:
        """Yield the tasks that a score on a task held out is of."""
        for expert in self.experts.values():
            yield from expert.held_out
        for merge in self.merges.values():
            yield from merge.shared.held_out
            if merge.weighted is not None:
                yield from merge.weighted.held_out
            for point in merge.curve:
                yield from point.held_out


@dataclass(frozen=True)
class FailedCell:
    """A cell that could not be computed.

    Args:
        train_size, arm: of which.
        seed: of which; None where it is all of them.
        problems: what went wrong, at which step, and what helps.

    Example:
        >>> print(FailedCell("all", "sam", 0, ["train on news: training diverged; lower rho"]))
        all, sam, seed 0: train on news: training diverged; lower rho
    """

    train_size: str
    arm: str
    seed: int | None
    problems: list[str]

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return failure_in_words(f"{self.train_size}, {self.arm}{seed}", self.problems)


def failure_in_words(failed: str, problems: Iterable[str]) -> str:
    """Return the sentence on what could not be computed.

    Args:
        failed: what it is, a cell or an arm.
        problems: what went wrong, at which step, and what helps.

    Example:
        >>> failure_in_words("all/sam/seed0", ["training diverged; lower rho"])
        'all/sam/seed0: training diverged; lower rho'
    """
    return f"{failed}: {'; '.join(problems)}"
