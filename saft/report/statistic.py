"""A quantity measured once per seed: mean, standard deviation, paired difference, interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Statistic", "interval", "signed"]

# Two-sided 95 % points of Student's t with 1, 2, ... 10 degrees of freedom; beyond, the last (a bit wide).
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Statistic:
    """One number per seed.

    Attributes:
        by_seed: seed -> value; at least one.

    Example:
        >>> sam, adamw = Statistic({0: 0.77, 1: 0.79}), Statistic({0: 0.76, 1: 0.77})
        >>> sam.percent(), sam.minus(adamw).percent()
        ('78.0 ± 1.4', '1.5 ± 0.7')
    """

    by_seed: Mapping[int, float]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None for one seed."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean over seeds (Student's t); None for one seed."""
        if self.deviation is None:
            return None
        half = STUDENT_T[min(self.n - 1, len(STUDENT_T)) - 1] * self.deviation / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def minus(self, other: Statistic) -> Statistic | None:
        """Return the differences, paired by seed; None when no seed is common."""
        common = [seed for seed in self.by_seed if seed in other.by_seed]
        if not common:
            return None
        return Statistic({seed: self.by_seed[seed] - other.by_seed[seed] for seed in common})

    def percent(self) -> str:
        """Return `mean ± deviation` of a fraction, in percent with one decimal."""
        return self._written(100, 1)

    def significant(self, digits: int = 3) -> str:
        """Return `mean ± deviation` with as many decimals as give the mean `digits` significant ones."""
        magnitude = math.floor(math.log10(abs(self.mean))) if self.mean else 0
        return self._written(1, min(9, max(0, digits - 1 - magnitude)))

    def _written(self, scale: float, decimals: int) -> str:
        text = f"{scale * self.mean:.{decimals}f}"
        return text if self.deviation is None else f"{text} ± {scale * self.deviation:.{decimals}f}"


def signed(fraction: float) -> str:
    """Return a difference of fractions in points, with its sign.

    Example:
        >>> signed(0.0123), signed(-0.0123), signed(-0.0001)
        ('+1.2', '−1.2', '0.0')
    """
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval of fractions in points; a dash where there is none.

    Example:
        >>> interval((-0.004, 0.021)), interval(None)
        ('−0.4 to +2.1', '–')
    """
    return "–" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"
