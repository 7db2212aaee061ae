"""What a measure of functions is, and how far apart two models' predictions are."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from saft.interference.quantity import Measure, Measured, Needs
from saft.interference.task_space import TaskSpace

__all__ = [
    "FunctionMeasure",
    "MergeMeasure",
    "check_coefficients",
    "coefficients",
    "disagreement",
    "distance_of_directions",
    "pairs",
]


class FunctionMeasure(Measure):
    """A measure of what models give for examples: a frozen dataclass, whose fields are its options."""

    needs: ClassVar[Needs] = "functions"

    @abstractmethod
    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return each quantity, nested as its axes say; one that this space cannot give is left out."""


class MergeMeasure(FunctionMeasure):
    """A measure of what a merge does to its tasks: of functions, in a space that has a merge method."""

    needs = "merge"

    def merges(self, tasks: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield the tasks whose models are merged, of each merge that is made; default: all, once.

        Args:
            tasks: that there are.
        """
        yield tuple(tasks)


def disagreement(predictions: Tensor, others: Tensor) -> float:
    """Return how far the predictions of two models for the same examples are apart.

    The share of labels or tokens that differ; of a regression the mean squared difference over the variance
    of the first model's numbers.

    Args:
        predictions: [n, ...], integers or truth values; numbers of a regression.
        others: of the same shape and kind.

    Returns:
        At least 0; 0 where they are equal. NaN where the first model gives one number for all, as for a
        single example: then there is nothing to tell by whether a difference is large.

    Example:
        >>> import torch
        >>> disagreement(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
        0.25
    """
    if not predictions.is_floating_point():
        return float((predictions != others).double().mean())
    squared = (predictions.double() - others.double()).square().mean()
    variance = predictions.double().var(correction=0)
    return float(squared / variance) if variance > 1e-12 else math.nan if squared > 0 else 0.0


def distance_of_directions(features: Tensor, others: Tensor) -> float:
    r"""Return :math:`\frac1n \sum_i \lVert \hat h_i - \hat g_i \rVert^2`, of features made of length 1.

    Args:
        features: [examples, width].
        others: of the same shape.

    Returns:
        In [0, 4]: 0 for equal directions, 2 for orthogonal ones.

    Example:
        >>> import torch
        >>> distance_of_directions(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        2.0
    """
    first, second = (functional.normalize(part.double(), dim=-1) for part in (features, others))
    return float((first - second).square().sum(-1).mean())


def coefficients(low: float, high: float, count: int) -> dict[str, float]:
    """Return evenly spaced coefficients, by the texts that stand for them on an axis.

    Args:
        low: the first coefficient.
        high: the last coefficient.
        count: how many, at least 1.

    Example:
        >>> coefficients(0.0, 1.0, 3)
        {'0': 0.0, '0.5': 0.5, '1': 1.0}
    """
    step = (high - low) / max(count - 1, 1)
    return {f"{value:g}": value for value in (round(low + step * i, 6) for i in range(count))}


def check_coefficients(low: float, high: float, count: int) -> None:
    """Check that a grid of coefficients has as many as it is asked for, from the least to the greatest.

    Args:
        low, high: the first and the last of them.
        count: how many are asked for.

    Raises:
        ValueError: it has fewer, or none between.

    Example:
        >>> check_coefficients(1.0, 0.0, 9)
        Traceback (most recent call last):
        ValueError: low: must be below high, but is 1 and high is 0
    """
    if low >= high:
        raise ValueError(f"low: must be below high, but is {low:g} and high is {high:g}")
    if len(coefficients(low, high, count)) < count:
        raise ValueError(
            f"grid: {count} coefficients from {low!r} to {high!r} are too close to tell them apart; "
            "take fewer, or a wider range"
        )


def pairs(tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every pair of two tasks once, in their order."""
    return combinations(tasks, 2)
