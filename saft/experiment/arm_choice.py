"""Choosing among the trials of an arm: the one whose merged models are best on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from saft.experiment.selection import mean_normalized
from saft.tasks.metric import Metric

__all__ = ["ArmChoice", "best_trial", "merged_worth"]


@dataclass(frozen=True)
class ArmChoice:
    """What the trials of an arm are worth at one train size, and which of them is the arm.

    Args:
        worths: name of a trial -> seed -> validation score of its merged models; see `merged_worth`.
        chosen: name of a trial; None where every one of them diverged.
    """

    worths: dict[str, dict[int, float]]
    chosen: str | None


def merged_worth(
    merges: Mapping[str, Mapping[str, float]], best: Mapping[str, float], metrics: Mapping[str, Metric]
) -> float:
    r"""Return what the merged models of one cell are worth: their mean over tasks and merge methods.

    .. math:: \frac1M \sum_m \frac1K \sum_t a_{mt}

    Where the tasks have one metric, the scores are taken as they are: over those of the trial's own experts
    they would favour experts that are weak. Scores of different metrics have no mean; these are taken over
    `best`, which is the same for every trial.

    Args:
        merges: method -> task -> raw validation value at the shared coefficient.
        best: task -> raw validation value of the best expert of any trial.
        metrics: task -> what the values are.

    Returns:
        A raw value of the one metric, or a share of the best experts' scores, of which more is better. NaN
        where a score is.

    Example:
        >>> accuracy = Metric("accuracy", "%")
        >>> merged = {"ties": {"a": 0.5, "b": 0.75}, "average": {"a": 0.25, "b": 0.5}}
        >>> merged_worth(merged, {"a": 0.8, "b": 0.9}, {"a": accuracy, "b": accuracy})
        0.5
    """
    if len(set(metrics.values())) == 1:
        return fmean(value for values in merges.values() for value in values.values())
    return fmean(mean_normalized(values, best, metrics) for values in merges.values())


def best_trial(worths: Mapping[str, Mapping[int, float]], higher_is_better: bool) -> str | None:
    """Return the trial with the best mean over the seeds; of equals the first.

    Args:
        worths: trial -> seed -> worth. A trial that has a NaN is none to choose.
        higher_is_better: of the worth.

    Returns:
        Its name; None where there is none to choose.

    Example:
        >>> best_trial({"a": {0: 0.5, 1: 0.7}, "b": {0: 0.8, 1: 0.3}, "c": {0: 0.9, 1: math.nan}}, True)
        'a'
    """
    means = {trial: fmean(of_seeds.values()) for trial, of_seeds in worths.items()}
    finite = {trial: mean for trial, mean in means.items() if math.isfinite(mean)}
    if not finite:
        return None
    return (max if higher_is_better else min)(finite, key=lambda trial: finite[trial])
