"""Sharpness-aware steps, slow and tensor by tensor, from the papers' equations; SGD underneath, no saft inside."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module], Tensor]


def gradient(model: nn.Module, loss: Loss) -> list[Tensor]:
    """The gradient at the model's weights; 0 where a parameter has no part."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss(model), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def gradient_at(model: nn.Module, loss: Loss, epsilon: Sequence[Tensor]) -> list[Tensor]:
    """The gradient at w + epsilon; the model is left alone."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, e in zip(moved.parameters(), epsilon, strict=True):
            parameter.copy_(parameter + e)
    return gradient(moved, loss)


def length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((t.double() ** 2).sum()) for t in tensors))


def sam(weights: Sequence[Tensor], g: Sequence[Tensor], rho: float) -> list[Tensor]:
    """epsilon = rho g / ||g||, eq. 2 of Foret et al."""
    norm = length(g)
    return [rho * t / norm if norm > 0 else torch.zeros_like(t) for t in g]


def asam(
    weights: Sequence[Tensor], g: Sequence[Tensor], rho: float, eta: float, rescaled: Sequence[bool]
) -> list[Tensor]:
    """epsilon = rho T^2 g / ||T g||, eq. 5 of Kwon et al., with T = |w| + eta where rescaled, else 1."""
    t = [w.abs() + eta if yes else torch.ones_like(w) for w, yes in zip(weights, rescaled, strict=True)]
    norm = length([a * b for a, b in zip(t, g, strict=True)])
    return [rho * a * a * b / norm if norm > 0 else torch.zeros_like(b) for a, b in zip(t, g, strict=True)]


def momentum(v: Sequence[Tensor], rho: float) -> list[Tensor]:
    """epsilon = -rho v / ||v||, Becker et al."""
    norm = length(v)
    return [-rho * t / norm if norm > 0 else torch.zeros_like(t) for t in v]


def friendly(
    g: Sequence[Tensor], average: Sequence[Tensor] | None, rho: float, sigma: float, decay: float
) -> tuple[list[Tensor], list[Tensor]]:
    """epsilon and the next average, in the order of the authors' code (Li et al.)."""
    if average is None:
        return sam(g, g, rho), [t.clone() for t in g]
    difference = [t - sigma * m for t, m in zip(g, average, strict=True)]
    return sam(g, difference, rho), [decay * m + (1 - decay) * t for t, m in zip(g, average, strict=True)]


def inner(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(xs, ys, strict=True))


def part_at_right_angle(xs: Sequence[Tensor], to: Sequence[Tensor]) -> list[Tensor]:
    """x less its projection on `to`, all tensors being one vector."""
    along = inner(xs, to) / inner(to, to)
    return [x - along * t for x, t in zip(xs, to, strict=True)]


def gsam(g: Sequence[Tensor], replayed: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """g~ - alpha g_perp, Zhuang et al., algorithm 1."""
    across = part_at_right_angle(g, replayed)
    return [r - alpha * a for r, a in zip(replayed, across, strict=True)]


def looksam(g: Sequence[Tensor], across: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """g + alpha ||g|| / ||g_v|| g_v, Liu et al., algorithm 1."""
    factor = alpha * length(g) / length(across)
    return [t + factor * a for t, a in zip(g, across, strict=True)]
