"""Two models on the same examples: their difference, and how sure it is, whatever the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saft.experiment.selection import mean_normalized
from saft.report.over_seeds import OverSeeds
from saft.tasks import Examples, Metric

__all__ = ["PairedGain", "groups_of", "paired_gain"]

GROUPS = 10  # the table of Student's t ends there, and an example in ten is a fair share of one


@dataclass(frozen=True)
class PairedGain:
    """By how much one model is better than another, in parts of the experts' scores.

    Args:
        by_group: the difference on each group of examples; empty where there were too few.

    Example:
        >>> PairedGain([0.02, 0.01, 0.03]).written(), PairedGain([0.02, -0.01]).is_sure
        ('+2.0 (95 % interval −0.5 to 4.5)', False)
    """

    by_group: Sequence[float]

    @property
    def mean(self) -> float | None:
        """The difference; None where there were too few examples."""
        return sum(self.by_group) / len(self.by_group) if self.by_group else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean (Student's t over the groups); None where there were too few."""
        return OverSeeds(dict(enumerate(self.by_group))).interval if self.by_group else None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def written(self) -> str:
        """Return the difference and its interval, in percent of the experts' scores."""
        if self.mean is None or self.interval is None:
            return "not known, of so few examples"
        low, high = (f"{100 * end:.1f}".replace("-", "−") for end in self.interval)
        return f"{100 * self.mean:+.1f} (95 % interval {low} to {high})".replace("-", "−")


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
