"""`rho: auto`: the radius at which the ascent raises the loss by a given share, found at the first ascent."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from saft.errors import UserError
from saft.optim.ascent import Ascent
from saft.optim.batch_norm import frozen_statistics
from saft.optim.perturbations.base import PROBES
from saft.optim.random_streams import RandomStreams

__all__ = ["BrokenLoss", "find_radius", "radius_of_rise"]

FURTHEST = 100.0  # a probe is at most so many times as large, or small, as the one before


class _NoAscent(UserError):
    """No radius changes the loss, or each makes it infinite: the gradient is zero, or not finite."""


class BrokenLoss(UserError):
    """The loss is NaN or infinite before the radius is sought: what came before has ruined the weights."""


def find_radius(
    ascent: Ascent,
    at_w: Callable[[], Any],
    above: Callable[[], Any],
    between: Callable[[], Any] = lambda: None,
    scaler: GradScaler | None = None,
) -> float | None:
    r"""Find the radius of an ascent whose rho is auto, and give it to the ascent; there it stays.

    .. math:: \frac{L(w + \epsilon(\rho)) - L(w)}{|L(w)|} = \text{rise}

    with the perturbation's own :math:`\epsilon`, so that the radius is in its own metric: SAM's, ASAM's. The
    loss is that of one batch, with the same random numbers in all passes. Afterwards weights, batch norms,
    random numbers and what the perturbation remembers are as before, and there are no gradients.

    Args:
        ascent: at rest, before the first pass of a step with an ascent.
        at_w: runs forward and backward at w, and returns the loss.
        above: returns the loss of the same batch at w + epsilon; it may run backward too.
        between: is called after `at_w`, before the ascent.
        scaler: the gradient scaler, if the passes scale their loss.

    Returns:
        The radius; None where the gradient overflows at its scale, a step that the scaler skips: it is to be
        found at a later one.

    Raises:
        BrokenLoss: the loss is NaN or infinite.
        UserError: the loss is 0, or no radius raises it by this share.

    Example:
        >>> from saft.optim import make_perturbation
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> ascent = Ascent([{"params": [w]}], make_perturbation("sam", rho="auto", rise=0.21))
        >>> def loss():
        ...     value = w.square().sum()
        ...     value.backward()
        ...     return value
        >>> round(find_radius(ascent, loss, loss), 3)                  # (2 + 0.2)² = 1.21 · 2²
        0.2

    Source: the budget of the loss is that of Loss-Equated SAM (arXiv 2605.10183). Differs: the rise is
    relative and measured, not linearized, and the radius is found once and then kept.
    """
    asked = ascent.perturbation
    assert asked.rise is not None
    parameters = ascent.parameter_groups.trainable
    before, streams = copy.deepcopy(ascent.state_dict()), RandomStreams(p.device for p in parameters)

    def rise(rho: float) -> float:
        ascent.perturbation = asked.with_radius(rho)
        streams.rewind()
        try:
            for parameter in parameters:
                parameter.grad = None
            with frozen_statistics(ascent.modules):
                with ascent.first_pass():
                    low = _number(at_w())
                between()
                with ascent.perturbed(scaler):
                    high = _number(above())
        finally:
            ascent.perturbation = asked
            ascent.load_state_dict(before)
            for parameter in parameters:
                parameter.grad = None
            streams.rewind()
        if not (math.isfinite(low) and low):
            told = f"rho: auto: the loss at the first ascent is {low:g}, of which there is no share"
            raise UserError(told) if low == 0 else BrokenLoss(told)
        return (high - low) / abs(low)

    try:
        rho = radius_of_rise(rise, asked.rise, asked.rho)
    except _NoAscent:
        if scaler is None or not scaler.is_enabled():
            raise
        return None
    ascent.perturbation = dataclasses.replace(asked, rho=rho, rise=None)
    return rho


def radius_of_rise(rise: Callable[[float], float], target: float, start: float) -> float:
    """Return the radius at which something rises by a target, from a fixed number of probes.

    It goes by the ratio, then by the line through two probes in logarithms, always between what is known to
    be too small and too large.

    Args:
        rise: radius -> rise, growing; what is not finite counts as too large.
        target: above 0.
        start: the first radius, above 0.

    Raises:
        UserError: no probe comes near: within a factor of 2.

    Example:
        >>> round(radius_of_rise(lambda rho: 3 * rho**2, target=0.12, start=5.0), 4)
        0.2
    """
    probes: dict[float, float] = {}
    radius = start
    for _ in range(PROBES):
        value = rise(radius)
        probes[radius] = value if math.isfinite(value) else math.inf
        radius = _next(probes, radius, target)
    best = min(probes, key=lambda rho: _distance(probes[rho], target))
    if _distance(probes[best], target) > math.log(2):
        error = UserError if any(value not in (0, math.inf) for value in probes.values()) else _NoAscent
        raise error(
            f"rho: auto: no radius was found that raises the loss by {target:.3g} of it: {best:.3g} raises "
            f"it by {probes[best]:.3g}; give a number, or another rise"
        )
    return best


def _next(probes: dict[float, float], last: float, target: float) -> float:
    low = max((rho for rho, value in probes.items() if value < target), default=0.0)
    high = min((rho for rho, value in probes.items() if value >= target and rho > low), default=math.inf)
    if low == 0.0 or high == math.inf:
        value = probes[last]
        factor = target / value if value > 0 else FURTHEST
        return last * min(max(factor, 1 / FURTHEST), FURTHEST)
    if probes[low] <= 0 or probes[high] == math.inf:
        return math.sqrt(low * high)
    share = math.log(target / probes[low]) / math.log(probes[high] / probes[low])
    share = min(max(share, 0.01), 0.99)  # at an end itself nothing would be learned
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


def _distance(value: float, target: float) -> float:
    return abs(math.log(value / target)) if 0 < value < math.inf else math.inf


def _number(loss: Any) -> float:
    """Return a loss as a number, its mean over all processes, so that all find one radius."""
    if not isinstance(loss, Tensor | Real):
        raise UserError(
            "rho: auto: the closure must return the loss, a number or a tensor, but returned"
            f" {'nothing' if loss is None else f'a {type(loss).__name__}'}"
        )
    value = torch.as_tensor(loss).detach().float().mean()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return float(value.item())
