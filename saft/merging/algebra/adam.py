"""Descent with Adam, for the methods that find a merged tensor step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["adam"]

_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8  # Adam's defaults, which the authors of these methods keep


def adam(start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int, learning_rate: float) -> Tensor:
    """Return where Adam arrives from `start`, in its dtype.

    With m and v the running means of the gradients and of their squares, divided by what they lack of one,
        x ← x − learning_rate · m / (√v + 10⁻⁸).
    An entry whose gradient is zero stays where it is.

    Args:
        start: any shape; it is left as it is.
        gradient: of the loss at a point.
        steps: how many.
        learning_rate: about how far an entry moves in a step.

    Example:
        >>> adam(torch.tensor([1.0, 2.0]), lambda x: x - 2, steps=200, learning_rate=0.1).round(decimals=2)
        tensor([2., 2.])
    """
    point, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point)
        mean.lerp_(slope, 1 - _FIRST)
        square.mul_(_SECOND).addcmul_(slope, slope, value=1 - _SECOND)
        root = square.sqrt().div_(math.sqrt(1 - _SECOND**step)).add_(_SMALL)
        point.addcdiv_(mean, root, value=-learning_rate / (1 - _FIRST**step))
    return point
