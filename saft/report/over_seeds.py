"""A number measured once per seed: mean, standard deviation, paired difference, interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from saft.student_t import student_t
from saft.written import as_number

__all__ = ["OverSeeds", "complete_mean", "finite_over_seeds", "signed"]


@dataclass(frozen=True)
class OverSeeds:
    """One number per seed.

    Attributes:
        by_seed: seed -> value; at least one.

    Example:
        >>> sam, adamw = OverSeeds({0: 0.77, 1: 0.79}), OverSeeds({0: 0.76, 1: 0.77})
        >>> sam.written(scale=100, decimals=1), sam.minus(adamw).written(scale=100, decimals=1)
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
        half = student_t(0.975, self.n - 1) * self.deviation / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def minus(self, other: OverSeeds) -> OverSeeds | None:
        """Return the differences, paired by seed; None when no seed is common."""
        common = [seed for seed in self.by_seed if seed in other.by_seed]
        if not common:
            return None
        return OverSeeds({seed: self.by_seed[seed] - other.by_seed[seed] for seed in common})

    def written(self, scale: float = 1.0, decimals: int = 1) -> str:
        """Return `mean ± deviation`, each times `scale`; the mean only for one seed."""
        text = as_number(scale * self.mean, decimals)
        return text if self.deviation is None else f"{text} ± {scale * self.deviation:.{decimals}f}"


def finite_over_seeds(by_seed: Mapping[int, float | None]) -> OverSeeds | None:
    """Return the figures that are known and finite; None where none is.

    Args:
        by_seed: seed -> value, or None where it is not known.
    """
    known = {seed: value for seed, value in by_seed.items() if value is not None and math.isfinite(value)}
    return OverSeeds(known) if known else None


def complete_mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None where one value is not known or not finite: of some, it means something else.

    Example:
        >>> complete_mean([1.0, 2.0]), complete_mean([1.0, None])
        (1.5, None)
    """
    known = [math.nan if value is None else value for value in values]
    mean = statistics.fmean(known) if known else math.nan
    return mean if math.isfinite(mean) else None


def signed(value: float, scale: float = 1.0, decimals: int = 1) -> str:
    """Return a difference times `scale`, with its sign; zero has none.

    Args:
        value: the difference.
        scale: what it is multiplied by, 100 for percentage points.
        decimals: that are printed.

    Example:
        >>> signed(0.0123, 100), signed(-0.0123, 100), signed(-0.0001, 100)
        ('+1.2', '−1.2', '0.0')
    """
    text = as_number(scale * value, decimals)
    return f"+{text}" if value > 0 and float(text) else text
