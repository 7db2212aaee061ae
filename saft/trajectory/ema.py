"""EMA: an exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from saft.config import FractionOrZero, checked
from saft.trajectory.averaging import AVERAGINGS, Averaging

__all__ = ["EMA"]


@AVERAGINGS.register("ema")
@checked
@dataclass(frozen=True)
class EMA(Averaging):
    r"""Exponential moving average: $a_t = \beta_t a_{t-1} + (1 - \beta_t) w_t$.

    $\beta_t = \min(\beta, (t - 1) / (t + 9))$: the first steps decay faster, so that the base has no weight
    in short trainings.

    Args:
        decay: beta, in [0, 1]; 0 keeps the last weights, and 1 decays as the start does all along: about the
            last tenth of the steps count.

    Example:
        >>> [round(EMA(decay=0.9).share(step, steps=200), 3) for step in (1, 2, 11, 200)]
        [1.0, 0.909, 0.5, 0.1]

    Source: the exponential form of the average of Polyak and Juditsky, 1992; the faster start is that
    of TensorFlow's ExponentialMovingAverage, (t + 1) / (t + 10), shifted to begin at the first weights.
    """

    decay: FractionOrZero = 0.95

    def share(self, step: int, steps: int) -> float:
        """Return 1 - beta of a step; see `Averaging.share`."""
        return 1 - min(self.decay, (step - 1) / (step + 9))
