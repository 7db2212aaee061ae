"""Surrogate-gap SAM: descend the perturbed loss, and the gap to it as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.perturbations.base import PERTURBATIONS, peak_rate
from saft.optim.perturbations.sam import PlainSAM
from saft.optim.slots import AscentSlots

__all__ = ["GSAM"]


@PERTURBATIONS.register("gsam")
@dataclass(frozen=True)
class GSAM(PlainSAM):
    r"""GSAM: a step along $\tilde g - \alpha g_\perp$, and SAM's radius following the learning rate.

    $g_\perp = g - \tilde g \langle g, \tilde g\rangle / \|\tilde g\|^2$ is the part of the first gradient at
    a right angle to the replayed one: leaving it lowers the perturbed loss as before, and raises the loss at
    w, closing the gap. $\rho_t = \rho_{min} + (\rho - \rho_{min}) (lr_t - lr_{min}) / (lr_{max} - lr_{min})$,
    lr_max being the peak that a scheduler notes (`initial_lr`, `max_lr`); constant without one, and never out
    of $[\rho_{min}, \rho]$.

    Args:
        rho: largest radius, at least 0; 0.6 in the authors' ViT recipe from scratch, 0.05 here as in SAM.
        rho_min: smallest radius, reached at lr_min; 0.1 in that recipe.
        alpha: weight of the gap, at least 0; 0.6 in that recipe, 0.4 in the authors' class for CNNs.
        lr_min: learning rate at the end of the schedule.

    Example:
        >>> GSAM(rho=0.6, rho_min=0.1).radius(0, {"lr": 0.5, "initial_lr": 1.0})
        0.35

    Source: Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR 2022, arXiv
    2203.08065. Holds a copy of the first gradient while the replay runs.
    """

    rho_min: float = 0.0
    alpha: float = 0.4
    lr_min: float = 0.0

    uses_first_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho_min >= 0:
            raise UserError(f"GSAM: rho_min: must be at least 0, but is {self.rho_min}")
        if not self.alpha >= 0:
            raise UserError(f"GSAM: alpha: must be at least 0, but is {self.alpha}")

    def radius(self, step: int, group: Mapping[str, Any]) -> float:
        """Return rho at a step; see the class."""
        rho, least = super().radius(step, group), min(self.rho_min, self.rho)
        span = peak_rate(group) - self.lr_min
        if "initial_lr" not in group or span <= 0:
            return rho
        share = (float(group["lr"]) - self.lr_min) / span
        return least + (rho - least) * min(max(share, 0.0), 1.0)

    def with_radius(self, rho: float) -> Self:
        """Return the same with this radius at every step; see `Perturbation.with_radius`."""
        return dataclasses.replace(super().with_radius(rho), rho_min=rho)

    def keep(self, slots: AscentSlots) -> dict[Tensor, Tensor]:
        """Return a copy of the first gradients: parameter -> gradient, in its shape."""
        return {slot.parameter: slot.buffer.clone() for slot in slots}

    def descend(self, slots: AscentSlots, kept: dict[Tensor, Tensor]) -> None:
        r"""Write $\tilde g - \alpha g_\perp$ over the replayed gradients."""
        if not len(slots):
            return
        first = [kept.get(slot.parameter, torch.zeros_like(slot.buffer)) for slot in slots]
        replayed = slots.buffers
        along = kernels.safe_ratio(slots.dot(first, replayed), slots.norm(replayed).square())
        for g, buffer in zip(first, replayed, strict=True):
            buffer.mul_((1 + self.alpha * along).to(buffer)).sub_(g, alpha=self.alpha)
