"""A mean score with its interval: over seeds where there are several, else from the number of examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from saft.interference.paired_interval import error_of_mean, freedom_of_mean
from saft.report.arm_summary import MetricSummary, ScoreSummary
from saft.report.over_seeds import OverSeeds
from saft.student_t import student_t
from saft.tasks.metric import Metric

__all__ = ["Estimate", "experts_estimate", "merged_estimate", "over_examples", "task_estimate"]

Error = tuple[float, int]
"""The standard error of a score, and from how many examples it was found."""


def over_examples(mean: float, error: float | None, freedom: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a value over the examples (Student's t); None where it is not known.

    Args:
        mean: the value.
        error: its standard error.
        freedom: degrees of freedom of that error.

    Example:
        >>> over_examples(0.8, 0.01, 5)
        (0.774..., 0.825...)
    """
    if error is None:
        return None
    half = student_t(0.975, freedom) * error
    return mean - half, mean + half


@dataclass(frozen=True)
class Estimate:
    """A score, raw, and how sure it is.

    Attributes:
        values: over the seeds.
        error: standard error from the finite number of examples; None where it is not known.
        freedom: degrees of freedom of Student's t for that error.

    Example:
        >>> accuracy = Metric("accuracy", "%")
        >>> Estimate(OverSeeds({0: 0.8}), error=0.01, freedom=19).written(accuracy)
        '80.0 (77.9 to 82.1)'
    """

    values: OverSeeds
    error: float | None
    freedom: float = math.inf

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return self.values.mean

    @property
    def ends(self) -> tuple[float, float] | None:
        """95 % interval over seeds; of one seed over the examples; None where it is not known."""
        return self.values.interval or over_examples(self.mean, self.error, self.freedom)

    def possible_ends(self, metric: Metric) -> tuple[float, float] | None:
        """Return the interval of a score as far as there are such: no accuracy is below 0, or above 1.

        Args:
            metric: of the score.
        """
        if self.ends is None:
            return None
        least, greatest = metric.limits
        return max(self.ends[0], least), min(self.ends[1], greatest)

    def written(self, metric: Metric) -> str:
        """Return the mean of a score and its interval, as the metric prints its values."""
        ends = self.possible_ends(metric)
        between = "" if ends is None else f" ({' to '.join(map(metric.format, ends))})"
        return f"{metric.format(self.mean)}{between}"


def experts_estimate(summary: MetricSummary) -> Estimate | None:
    """Return the score of an arm's experts, mean over tasks; None where one is not known."""
    mean = summary.experts.mean
    return (
        None
        if mean is None
        else _estimate(mean, [_error([summary.experts], t) for t in summary.experts.errors])
    )


def merged_estimate(summary: MetricSummary, methods: Sequence[str]) -> Estimate | None:
    """Return the score with the shared coefficient, mean over tasks and methods.

    Args:
        summary: of an arm, on the tasks of a metric.
        methods: that the mean is over; it is of the seeds that have all of them.
    """
    means = [mean.by_seed for method in methods if (mean := summary.merges[method].shared.mean) is not None]
    seeds = [seed for seed in means[0] if all(seed in mean for mean in means)] if means else []
    if not seeds:
        return None
    merges = [summary.merges[method].shared for method in methods]
    values = OverSeeds({seed: fmean(mean[seed] for mean in means) for seed in seeds})
    return _estimate(values, [_error(merges, task) for task in summary.experts.errors])


def task_estimate(scores: Sequence[ScoreSummary], task: str) -> Estimate | None:
    """Return the score on one task, mean over several models; None where one is not known.

    Args:
        scores: of the models.
        task: on which.
    """
    known = [summary.tasks[task].by_seed for summary in scores if task in summary.tasks]
    seeds = [seed for seed in known[0] if all(seed in of for of in known)] if known else []
    if not seeds or len(known) < len(scores):
        return None
    values = OverSeeds({seed: fmean(of[seed] for of in known) for seed in seeds})
    return _estimate(values, [_error(scores, task)])


def _estimate(values: OverSeeds, errors: Iterable[Error | None]) -> Estimate:
    """Return a mean over tasks, given the error on each; its own is not known where that of one is not."""
    every = list(errors)
    known = [error for error in every if error is not None]
    if not known or len(known) < len(every):
        return Estimate(values, None)
    of_tasks, examples = zip(*known, strict=True)
    return Estimate(values, error_of_mean(of_tasks), freedom_of_mean(of_tasks, examples))


def _error(scores: Sequence[ScoreSummary], task: str) -> Error | None:
    """Return the standard error on a task of the mean over models, which share their examples."""
    errors = [error for summary in scores if (error := summary.errors[task]) is not None]
    if not errors or len(errors) < len(scores):
        return None
    return fmean(errors), min(summary.examples[task] for summary in scores)
