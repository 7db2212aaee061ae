"""A mean score with its interval: over seeds where there are several, else from the number of examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from saft.interference.paired_interval import error_of_mean
from saft.report.arm_summary import MetricSummary, ScoreSummary
from saft.report.over_seeds import OverSeeds
from saft.tasks.metric import Metric

__all__ = ["Estimate", "experts_estimate", "merged_estimate", "task_estimate"]


@dataclass(frozen=True)
class Estimate:
    """A score, raw, and how sure it is.

    Attributes:
        values: over the seeds.
        error: standard error from the finite number of examples; None where it is not known.

    Example:
        >>> accuracy = Metric("accuracy", "%")
        >>> Estimate(OverSeeds({0: 0.8}), error=0.01).written(accuracy)
        '80.0 (78.0 to 82.0)'
    """

    values: OverSeeds
    error: float | None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return self.values.mean

    @property
    def ends(self) -> tuple[float, float] | None:
        """95 % interval over seeds; of one seed two standard errors of the evaluation; or None."""
        if self.values.interval is not None:
            return self.values.interval
        return None if self.error is None else (self.mean - 2 * self.error, self.mean + 2 * self.error)

    def written(self, metric: Metric) -> str:
        """Return the mean and its interval, as the metric prints its values."""
        ends = "" if self.ends is None else f" ({' to '.join(map(metric.format, self.ends))})"
        return f"{metric.format(self.mean)}{ends}"


def experts_estimate(summary: MetricSummary) -> Estimate | None:
    """Return the score of an arm's experts, mean over tasks; None where one is not known."""
    mean = summary.experts.mean
    return None if mean is None else Estimate(mean, _error_over_tasks(summary.experts.errors))


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
    by_task = {
        task: _error([summary.merges[m].shared for m in methods], task) for task in summary.experts.errors
    }
    values = OverSeeds({seed: fmean(mean[seed] for mean in means) for seed in seeds})
    return Estimate(values, _error_over_tasks(by_task))


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
    return Estimate(
        OverSeeds({seed: fmean(of[seed] for of in known) for seed in seeds}), _error(scores, task)
    )


def _error_over_tasks(errors: Mapping[str, float | None]) -> float | None:
    """Return the standard error of a mean over tasks; None where that of one is not known."""
    known = [error for error in errors.values() if error is not None]
    return error_of_mean(known) if known and len(known) == len(errors) else None


def _error(scores: Sequence[ScoreSummary], task: str) -> float | None:
    """Return the standard error on a task of the mean over models, which share their examples."""
    errors = [error for summary in scores if (error := summary.errors[task]) is not None]
    return fmean(errors) if errors and len(errors) == len(scores) else None
