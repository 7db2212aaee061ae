"""Choosing on validation data: a search gives trials, and the best is taken, for all tasks or for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from saft.interference.paired_interval import error_of_mean, freedom_of_mean
from saft.interference.retained import worth
from saft.tasks.metric import Metric, Score

__all__ = [
    "Candidate",
    "Grid",
    "Search",
    "Trial",
    "Validate",
    "error_of_mean_normalized",
    "mean_normalized",
    "per_task",
    "shared",
]

Candidate = Mapping[str, float]
"""What is searched -> its value: {"density": 0.2, "scaling": 0.3}."""

Validate = Callable[[Candidate], dict[str, Score]]
"""Candidate -> task -> validation score."""


@dataclass(frozen=True)
class Trial:
    """One candidate, and what it was worth.

    Args:
        candidate: the scaling coefficient and whatever else is searched, in the order in which it was given.
        validation: task -> score on validation examples, the same in every trial.
    """

    candidate: dict[str, float]
    validation: dict[str, Score]

    @property
    def values(self) -> dict[str, float]:
        """Task -> raw validation value."""
        return {task: score.value for task, score in self.validation.items()}


class Search(Protocol):
    """How candidates are tried. Another search is another class with these."""

    @property
    def evaluations(self) -> int:
        """How many candidates are tried, at most."""

    def trials(self, validate: Validate) -> list[Trial]:
        """Try candidates, asking for the validation scores of each, and return all that were tried."""


@dataclass(frozen=True)
class Grid:
    """Tries every combination of lists of values.

    Args:
        values: what is searched -> its values; the last one varies fastest.

    Example:
        >>> trials = Grid({"scaling": [1, 2]}).trials(lambda c: {"a": Score(c["scaling"] / 10, None, 5)})
        >>> [(trial.candidate, trial.values) for trial in trials]
        [({'scaling': 1}, {'a': 0.1}), ({'scaling': 2}, {'a': 0.2})]
    """

    values: Mapping[str, Sequence[float]]

    @property
    def evaluations(self) -> int:
        """All combinations."""
        return math.prod(map(len, self.values.values()))

    def trials(self, validate: Validate) -> list[Trial]:
        """Try them in their order."""
        combinations = itertools.product(*self.values.values())
        candidates = [dict(zip(self.values, values, strict=True)) for values in combinations]
        return [Trial(candidate, validate(candidate)) for candidate in candidates]


def shared(trials: Sequence[Trial], experts: Mapping[str, float], metrics: Mapping[str, Metric]) -> Trial:
    r"""Return the trial with the best mean normalized validation value; of equals, that of smallest values.

    .. math:: \lambda^* = \arg\max_\lambda \frac1K \sum_t \frac{a_t(\lambda)}{a_t(\text{expert})}

    This is one model for all tasks, the protocol of task arithmetic (Ilharco et al., 2023).

    Args:
        trials: at least one.
        experts: task -> the single-task model's validation value.
        metrics: task -> what the values are.

    Example:
        >>> accuracy = Metric("accuracy", "%")
        >>> scores = {0.3: {"a": 0.6, "b": 0.2}, 0.6: {"a": 0.5, "b": 0.4}}
        >>> trials = [
        ...     Trial({"scaling": at}, {task: Score(value, None, 5) for task, value in values.items()})
        ...     for at, values in scores.items()
        ... ]
        >>> shared(trials, {"a": 1.0, "b": 0.5}, {"a": accuracy, "b": accuracy}).candidate
        {'scaling': 0.6}
    """

    def rank(trial: Trial) -> tuple[float, ...]:
        mean = mean_normalized(trial.values, experts, metrics)
        return (-math.inf if math.isnan(mean) else mean, *_smallness(trial))

    return max(trials, key=rank)


def per_task(trials: Sequence[Trial], metrics: Mapping[str, Metric]) -> dict[str, Trial]:
    """Return for each task the trial that validates best on it; of equals, that of smallest values.

    This gives up to one model per task, so its mean is not that of a merged model: it is the protocol of the
    SAFT paper's code, printed beside the honest one for comparison.

    Args:
        trials: at least one.
        metrics: task -> what the values are.

    Example:
        >>> loss = Metric("loss", "nats", higher_is_better=False, scale=1)
        >>> losses = {0.3: 3.0, 0.6: 2.0}
        >>> trials = [Trial({"scaling": at}, {"b": Score(value, None, 5)}) for at, value in losses.items()]
        >>> per_task(trials, {"b": loss})["b"].candidate
        {'scaling': 0.6}
    """

    def rank(trial: Trial, task: str) -> tuple[float, ...]:
        value = trial.validation[task].value
        upward = value if metrics[task].higher_is_better else -value
        return (-math.inf if math.isnan(value) else upward, *_smallness(trial))

    return {task: max(trials, key=lambda trial: rank(trial, task)) for task in trials[0].validation}


def mean_normalized(
    values: Mapping[str, float], experts: Mapping[str, float], metrics: Mapping[str, Metric]
) -> float:
    """Return the mean over the tasks of value over expert, or expert over value where lower is better.

    1 is as good as the experts, and more is better. A task whose expert is at 0 or below (a correlation may
    be) is left unnormalized.

    Args:
        values: task -> raw value of one model.
        experts: task -> raw value of its single-task model.
        metrics: task -> what the values are.

    Example:
        >>> mean_normalized({"a": 0.4}, {"a": 0.8}, {"a": Metric("accuracy", "%")})
        0.5
        >>> mean_normalized({"a": 4.0}, {"a": 2.0}, {"a": Metric("loss", "nats", False)})
        0.5
    """
    worths = (worth(value, experts[task], metrics[task].higher_is_better) for task, value in values.items())
    return sum(worths) / len(values)


def error_of_mean_normalized(
    scores: Mapping[str, Score], experts: Mapping[str, float], metrics: Mapping[str, Metric]
) -> tuple[float | None, float]:
    r"""Return the standard error of `mean_normalized` over the examples, and its degrees of freedom.

    .. math:: \frac1K \sqrt{\sum_t \left(\frac{d\,\text{normalized}_t}{d\,a_t}\, se_t\right)^2}

    The experts' own values are taken as known.

    Args:
        scores: task -> score of one model.
        experts: task -> raw value of its single-task model.
        metrics: task -> what the values are.

    Returns:
        The error, None where that of a score is not known; degrees of freedom of Student's t for it.

    Example:
        >>> scores, accuracy = {"a": Score(0.4, 0.03, 9), "b": Score(0.4, 0.04, 9)}, Metric("accuracy", "%")
        >>> error_of_mean_normalized(scores, {"a": 1.0, "b": 1.0}, {"a": accuracy, "b": accuracy})
        (0.025, 14.8...)
    """
    errors = []
    for task, score in scores.items():
        if score.standard_error is None:
            return None, math.inf
        value, expert = score.value, experts[task]
        if metrics[task].higher_is_better:
            slope = 1 / expert if expert > 0 else 1.0
        else:
            slope = expert / value**2 if expert > 0 and value > 0 else 1.0
        errors.append(slope * score.standard_error)
    return error_of_mean(errors), freedom_of_mean(errors, [score.examples for score in scores.values()])


def _smallness(trial: Trial) -> tuple[float, ...]:
    return tuple(-value for value in trial.candidate.values())
