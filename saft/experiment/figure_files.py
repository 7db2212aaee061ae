"""What the files of figures hold, each a type: a damaged file is told before it is used."""

from __future__ import annotations

from dataclasses import dataclass, field

from saft.interference.quantity import Quantity
from saft.report.cell_result import Measurements
from saft.tasks.metric import Score

__all__ = [
    "Choice",
    "ChoiceTest",
    "HeldOutCurve",
    "HeldOutPoint",
    "Measurement",
    "StartMerge",
    "Training",
    "ValidatedCandidate",
    "WeightsChoice",
    "WeightsTest",
]


@dataclass(frozen=True)
class Training:
    """An expert's training; of one that is given, its score.

    Args:
        validation: its score on the validation examples.
        steps: optimizer steps that were taken, or chosen; 0 of an expert that is given.
        seconds: wall time.
        device: what it was computed on, as reports call it.
        memory: the most that it took, bytes; None where it is not known.
        losses: (step, loss of its batch), as they were logged.
        diverged: whether the loss became infinite or NaN, so that there is no expert; its score is NaN then.
    """

    validation: Score
    steps: int
    seconds: float | None
    device: str
    memory: float | None = None  # figures of earlier versions have neither
    losses: list[tuple[int, float]] = field(default_factory=list)
    diverged: bool = False


@dataclass(frozen=True)
class StartMerge:
    """The merge of an arm's first round, which its experts start from.

    Args:
        seconds: wall time; None where it is not known.
    """

    seconds: float | None


@dataclass(frozen=True)
class Measurement:
    """What measures gave.

    Args:
        measured: quantity -> its numbers.
        quantities: quantity -> what the numbers are.

    Example:
        >>> Measurement({"norm": 1.0}, {})
        Traceback (most recent call last):
        ValueError: measured.norm: quantities does not say what it is
    """

    measured: dict[str, Measurements]
    quantities: dict[str, Quantity]

    def __post_init__(self) -> None:
        if strangers := [name for name in self.measured if name not in self.quantities]:
            raise ValueError(f"measured.{strangers[0]}: quantities does not say what it is")


@dataclass(frozen=True)
class ValidatedCandidate:
    """One candidate of a merge's search.

    Args:
        candidate: its scaling coefficient.
        validation: task -> score on the validation examples.
        parameters: those that were searched beside the coefficient.
    """

    candidate: float
    validation: dict[str, Score]
    parameters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What was chosen for a merge, and from what.

    Args:
        curve: every candidate, in the order of the search.
        shared: the coefficient of the one that was chosen for all tasks.
        per_task: task -> the coefficient that validates best on it.
        parameters: the searched ones of what was chosen.

    Example:
        >>> at = ValidatedCandidate(0.3, {"news": Score(0.8, None, 10)})
        >>> Choice([at], 0.3, {"news": 0.3}).chosen is at
        True
        >>> Choice([at], 0.4, {"news": 0.3})
        Traceback (most recent call last):
        ValueError: curve: lacks a coefficient that was chosen
    """

    curve: list[ValidatedCandidate]
    shared: float
    per_task: dict[str, float]
    parameters: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not {self.shared, *self.per_task.values()} <= {point.candidate for point in self.of_the_chosen}:
            raise ValueError("curve: lacks a coefficient that was chosen")
        for point in self.curve:
            if set(point.validation) != set(self.per_task):
                raise ValueError(f"curve: the scores at {point.candidate:g} are of other tasks than per_task")

    @property
    def of_the_chosen(self) -> list[ValidatedCandidate]:
        """The candidates of the one merged vector that was chosen, at each coefficient that was tried."""
        return [point for point in self.curve if point.parameters == self.parameters]

    @property
    def chosen(self) -> ValidatedCandidate:
        """The candidate that was chosen for all tasks."""
        return next(point for point in self.of_the_chosen if point.candidate == self.shared)


@dataclass(frozen=True)
class ChoiceTest:
    """The test scores of what was chosen.

    Args:
        shared: task -> score at the coefficient of all tasks.
        per_task: task -> score at its own.
        by_example: task -> what each example adds to the shared score; empty of figures of earlier versions
            and of tasks with very many examples.
    """

    shared: dict[str, Score]
    per_task: dict[str, Score]
    by_example: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutPoint:
    """The merge at one scaling coefficient, on the validation examples of a task that is held out."""

    candidate: float
    score: Score


@dataclass(frozen=True)
class HeldOutCurve:
    """A merge on a task that is held out: a point at each coefficient that its choice tried."""

    curve: list[HeldOutPoint]


@dataclass(frozen=True)
class WeightsChoice:
    """The weights that were chosen for the tasks of one merged model.

    Args:
        weights: task -> its weight, or its weights along the layers.
        validation: task -> score on the validation examples.
        start: the coefficient of all tasks that the search began at.
        tried: every candidate, in the order of the search: what is searched -> its value.
    """

    weights: dict[str, list[float]]
    validation: dict[str, Score]
    start: float
    tried: list[dict[str, float]]

    def __post_init__(self) -> None:
        if set(self.weights) != set(self.validation):
            raise ValueError("weights: are of other tasks than the scores")
        if not all(self.weights.values()):
            raise ValueError("weights: a task has none")


@dataclass(frozen=True)
class WeightsTest:
    """The test scores of the weights that were chosen.

    Args:
        scores: task -> score.
        gain: on each group of test examples, by how much they are better than one coefficient, in parts of
            the experts' scores; empty where there were too few.
    """

    scores: dict[str, Score]
    gain: list[float]
