"""Scores from counted and measured examples, each with its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saft.tasks.metric import Score

__all__ = ["pearson", "ratio", "share", "spearman"]


def share(right: Tensor) -> Score:
    r"""Return the share p of examples that are right; its error is :math:`\sqrt{p(1 - p) / n}`.

    Where all are right, or none, that would be 0, as if no number of examples could show otherwise. The error
    is then what it would be with one example more, of the other kind.

    Args:
        right: [examples], truth values; at least one.

    Example:
        >>> share(torch.tensor([True, True, False, True]))
        Score(value=0.75, standard_error=0.216..., examples=4)
        >>> share(torch.tensor([True, True, True, True]))
        Score(value=1.0, standard_error=0.178..., examples=4)
    """
    examples = len(right)
    value = int(right.sum()) / examples
    if value in (0.0, 1.0):
        return Score(value, math.sqrt(examples / (examples + 1) ** 3), examples)
    return Score(value, math.sqrt(value * (1 - value) / examples), examples)


def ratio(parts: Tensor, counts: Tensor) -> Score:
    r"""Return a mean over tokens, :math:`r = \sum_i s_i / \sum_i n_i`, of examples that have several each.

    Examples are drawn, not tokens, so its error is that of a ratio of two means:
    :math:`\sqrt{\tfrac{n}{n-1} \sum_i (s_i - r n_i)^2} \,/ \sum_i n_i`.

    Args:
        parts: [examples], the sum over each example's tokens.
        counts: [examples], how many they are.

    Example:
        >>> ratio(torch.tensor([2.0, 1.0]), torch.tensor([2, 1]))
        Score(value=1.0, standard_error=0.0, examples=2)
    """
    parts, counts, size = parts.double(), counts.double(), len(parts)
    value = float(parts.sum() / counts.sum())
    if size < 2:
        return Score(value, None, size)
    squares = (parts - value * counts).square().sum() * size / (size - 1)
    return Score(value, float(squares.sqrt() / counts.sum()), size)


def pearson(predicted: Tensor, target: Tensor) -> Score:
    r"""Return Pearson's correlation; its error is :math:`(1 - r^2) / \sqrt{n - 1}`.

    That of three examples or fewer, or of a correlation of 1 or -1, where the formula says 0, is not known.

    Args:
        predicted: [examples].
        target: [examples].

    Example:
        >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])).value
        1.0
    """
    if _constant(predicted, target):
        return Score(0.0, None, len(target))
    r, size = _correlation(predicted.double(), target.double()), len(target)
    return Score(r, (1 - r * r) / math.sqrt(size - 1) if _says_its_error(r, size) else None, size)


def spearman(predicted: Tensor, target: Tensor) -> Score:
    r"""Return Spearman's rank correlation; its error is :math:`(1 - r^2) \sqrt{(1 + r^2 / 2) / (n - 3)}`.

    What does not vary has no order, and a correlation of 0. Where the error is not known: see `pearson`.

    Args:
        predicted: [examples].
        target: [examples].

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 4.0, 6.0])).value
        1.0

    Source: the error is that of Bonett & Wright 2000, "Sample size requirements for estimating Pearson,
    Kendall and Spearman correlations", Psychometrika 65.
    """
    if _constant(predicted, target):
        return Score(0.0, None, len(target))
    r, size = _correlation(_ranks(predicted), _ranks(target)), len(target)
    known = _says_its_error(r, size)
    return Score(r, (1 - r * r) * math.sqrt((1 + r * r / 2) / (size - 3)) if known else None, size)


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y / ((x @ x) * (y @ y)).sqrt()).clamp(-1, 1))


def _says_its_error(r: float, size: int) -> bool:
    return size > 3 and abs(r) < 1 - 1e-12


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks; equal values have the mean of theirs; none where one of them is not a number."""
    if values.isnan().any():
        return torch.full(values.shape, math.nan, dtype=torch.float64)
    values = values.contiguous()
    ordered = values.sort().values
    below, not_above = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + not_above + 1).double() / 2


def _constant(predicted: Tensor, target: Tensor) -> bool:
    return any(len(values) < 2 or bool((values == values[0]).all()) for values in (predicted, target))
