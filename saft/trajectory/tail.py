"""Tail: the plain average of the weights of the last steps."""

from __future__ import annotations

from dataclasses import dataclass

from saft.config import Fraction, checked
from saft.trajectory.averaging import AVERAGINGS, Averaging

__all__ = ["Tail"]


@AVERAGINGS.register("tail")
@checked
@dataclass(frozen=True)
class Tail(Averaging):
    r"""Average of the last steps: $a = \frac{1}{n} \sum_{t > T - n} w_t$; n is a share of all T steps.

    Args:
        share_of_steps: n / T, in (0, 1]; 1 averages all of the training.

    Example:
        >>> [Tail(share_of_steps=0.5).share(step, steps=6) for step in (3, 4, 5, 6)]
        [1.0, 1.0, 0.5, 0.3333333333333333]

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (SWA), UAI
    2018, arXiv 1803.05407. Differs: every step counts, and the learning rate is left to its schedule.
    """

    share_of_steps: Fraction = 0.5

    def share(self, step: int, steps: int) -> float:
        """Return one over the number of steps that count so far; see `Averaging.share`."""
        counted = max(1, round(self.share_of_steps * steps))
        return 1 / max(1, step - (steps - counted))
