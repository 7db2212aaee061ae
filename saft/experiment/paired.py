"""Two models on the same examples: their difference, and how sure it is, whatever the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saft.experiment.selection import mean_normalized
from saft.report.paired_gain import PairedGain
from saft.tasks import Examples, Metric

__all__ = ["groups_of", "paired_gain"]

GROUPS = 10  # enough for an interval of Student's t, and an example in ten is a fair share of one


def groups_of(examples: Mapping[str, Examples]) -> list[dict[str, Examples]]:
    """Return task -> its examples in ten groups, as many as the smallest task has examples at most.

    Args:
        examples: task -> examples.

    Returns:
        The groups; none where a task has fewer than two examples.
    """
    count = min(GROUPS, *map(len, examples.values()))
    if count < 2:
        return []
    return [
        {task: some.only(range(group, len(some), count)) for task, some in examples.items()}
        for group in range(count)
    ]


def paired_gain(
    better: Sequence[Mapping[str, float]],
    worse: Sequence[Mapping[str, float]],
    experts: Mapping[str, float],
    metrics: Mapping[str, Metric],
) -> PairedGain:
    r"""Return the gain of one model over another, paired by groups of examples.

    .. math:: d_g = \frac1K \sum_t \frac{a_{tg} - b_{tg}}{\text{expert}_t}, \qquad
       \bar d \pm t_{G-1}\, s_d / \sqrt G

    What makes an example easy or hard moves both models alike, and so the interval is far narrower than those
    of two scores. It needs nothing of the metric but its value on a group of examples.

    Args:
        better: group -> task -> raw value of one model.
        worse: the same of the other.
        experts: task -> raw value of its single-task model on all examples.
        metrics: task -> what the values are.

    Example:
        >>> accuracy = {"a": Metric("accuracy", "%")}
        >>> gain = paired_gain([{"a": 0.8}, {"a": 0.6}], [{"a": 0.6}, {"a": 0.4}], {"a": 1.0}, accuracy)
        >>> round(gain.mean, 3)
        0.2
    """
    return PairedGain(
        [
            mean_normalized(one, experts, metrics) - mean_normalized(other, experts, metrics)
            for one, other in zip(better, worse, strict=True)
        ]
    )
