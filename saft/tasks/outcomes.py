"""What a model made of each example, and the metric of all of them or of some."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.tasks.metric import Score

__all__ = ["Outcomes"]


@dataclass(frozen=True)
class Outcomes:
    """One model on one set of examples: all that its metric needs of each example.

    Args:
        rows: each [examples, ...], such as predictions and labels.
        estimate: makes a score of such rows.

    Example:
        >>> from saft.tasks.estimate import share
        >>> outcomes = Outcomes((torch.tensor([True, False]),), share)
        >>> outcomes.score().value, outcomes.by_example().tolist()
        (0.5, [1.0, 0.0])
    """

    rows: tuple[Tensor, ...]
    estimate: Callable[..., Score]

    def score(self) -> Score:
        """Return the metric of all examples."""
        return self.estimate(*self.rows)

    def by_example(self) -> Tensor:
        r"""Return what each example adds to the metric: the pseudo-values of the jackknife.

        .. math:: v_i = n a - (n - 1) a_{-i}

        a is the metric of all n examples, :math:`a_{-i}` that of all but one. Of a mean over examples, such
        as accuracy, :math:`v_i` is the example's own value. Of other metrics (F1, Matthews, correlations,
        a mean over tokens) the mean of v is the metric but for a bias of order 1/n, and the standard error
        of that mean is the metric's. So two models that saw the same examples can be compared example by
        example, whatever the metric.

        Returns:
            [examples], float64; NaN for a single example.

        Source: Tukey 1958, "Bias and Confidence in Not-quite Large Samples".
        """
        size = len(self.rows[0])
        if size < 2:
            return torch.full((size,), math.nan, dtype=torch.float64)
        whole, kept = self.score().value, torch.ones(size, dtype=torch.bool)
        values = []
        for at in range(size):
            kept[at] = False
            values.append(size * whole - (size - 1) * self.estimate(*(row[kept] for row in self.rows)).value)
            kept[at] = True
        return torch.tensor(values, dtype=torch.float64)
