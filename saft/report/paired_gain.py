"""By how much one model is better than another on the same examples, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saft.report.over_seeds import OverSeeds, signed
from saft.written import as_number

__all__ = ["PairedGain"]


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

    @property
    def in_words(self) -> str:
        """What the difference says: better than, worse than, or within the noise of."""
        if not self.is_sure:
            return "within the noise of"
        return "better than" if (self.mean or 0) > 0 else "worse than"

    def written(self) -> str:
        """Return the difference and its interval, in percent of the experts' scores."""
        if self.mean is None or self.interval is None:
            return "not known, of so few examples"
        low, high = (as_number(100 * end, 1) for end in self.interval)
        return f"{signed(self.mean, 100)} (95 % interval {low} to {high})"
