"""How sure a difference of scores on the same examples is, also where these are few."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saft.student_t import student_t

__all__ = ["error_of_mean", "freedom_of_mean", "half_width", "paired_error"]


def paired_error(one: Tensor, other: Tensor) -> float:
    r"""Return the standard error of the difference of two scores, which are means over the same examples.

    .. math:: e = \sqrt{\frac{1}{n (n - 1)} \sum_i (d_i - \bar d)^2}

    Of several models that see the same examples, such as those of several seeds, :math:`d_i` is the mean.

    Where each example is right or wrong, a few that do not differ say little: e is at least what two examples
    more would make it, of which one is better and one is worse (Bonett and Price's n + 2). Else it would be 0
    where none, or all, differ, as if no number of examples could show otherwise. Of several models the two
    are as far apart as these agree on examples that differ, :math:`\sqrt{\sum_i \bar d_i^2 / \sum_i
    \overline{d_i^2}}`, at most 1. Where another metric differs on every example alike, as correlations of 1
    and -1 do on three, they are as far apart as it differs.

    Args:
        one: [examples] or [models, examples], what each adds to the one score.
        other: in the same shape, what it adds to the other.

    Returns:
        NaN where it is not known, as of a single example, or of one whose part is not finite.

    Example:
        >>> right = torch.tensor([1.0, 1.0, 0.0, 1.0])
        >>> other = torch.tensor([1.0, 0.0, 0.0, 1.0])
        >>> round(paired_error(right, other), 3), round(paired_error(right, right), 3)
        (0.281, 0.236)

    Source:
        Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
        Based on Paired Data", Journal of Educational and Behavioral Statistics 37. Differs: the difference
        itself is not moved, and several models are saft's own.
    """
    of_models = (one - other).double().reshape(-1, one.shape[-1])
    apart, size = of_models.mean(0), of_models.shape[-1]
    if size < 2:
        return math.nan
    error = float(apart.std()) / math.sqrt(size)
    if _is_right_or_wrong(one) and _is_right_or_wrong(other):
        squares = float(of_models.square().mean())
        far = math.sqrt(float(apart.square().mean()) / squares) if squares else 1.0
    else:
        far = abs(float(apart.mean()))
        if not error <= 1e-6 * far:
            return error
    two_more = torch.cat([apart, apart.new_tensor([far, -far])])
    return max(error, float(two_more.std(correction=0)) / math.sqrt(size + 2))


def _is_right_or_wrong(values: Tensor) -> bool:
    return bool((values * (values - 1)).abs().max() < 1e-9)


def error_of_mean(errors: Sequence[float]) -> float:
    r"""Return the standard error of a mean of k values that are independent, :math:`\sqrt{\sum_i e_i^2} / k`.

    Args:
        errors: of each value.

    Example:
        >>> error_of_mean([0.03, 0.04])
        0.025
    """
    return math.sqrt(math.fsum(error * error for error in errors)) / len(errors)


def freedom_of_mean(errors: Sequence[float], examples: Sequence[float]) -> float:
    r"""Return the degrees of freedom of Student's t for a mean of several values, each with its error.

    .. math:: \nu = \Bigl(\sum_i e_i^2\Bigr)^2 \Big/ \sum_i \frac{e_i^4}{n_i - 1}

    Args:
        errors: of each value.
        examples: that each error was found from; infinity where it is not known how many.

    Returns:
        Infinity where no error is larger than 0.

    Example:
        >>> freedom_of_mean([0.1, 0.1], [6, 6])
        10.0

    Source: Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components".
    """
    squares = [error * error for error in errors]
    total = math.fsum(squares)
    parts = (square**2 / max(size - 1, 1) for square, size in zip(squares, examples, strict=True))
    spread = math.fsum(parts)
    return round(total * total / spread, 9) if spread > 0 else math.inf  # one quantile for equal numbers


def half_width(errors: Sequence[float], examples: Sequence[float], share: float) -> float:
    r"""Return half the width of the interval of a mean of several differences, each with its error.

    It is :math:`t_\nu` times the error of the mean; :math:`\nu` are its degrees of freedom.

    Args:
        errors: of each difference.
        examples: that each error was found from; infinity where it is not known how many.
        share: of such intervals that shall hold the truth.

    Example:
        >>> round(half_width([0.1, 0.1], [6, 6], 0.95), 3), round(half_width([0.1, 0.1], [600, 600], 0.95), 3)
        (0.158, 0.139)
    """
    return student_t((1 + share) / 2, freedom_of_mean(errors, examples)) * error_of_mean(errors)
