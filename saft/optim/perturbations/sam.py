"""Sharpness-aware minimization: the steepest ascent of the loss in a Euclidean ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saft.optim.kernels import safe_ratio
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots

__all__ = ["PlainSAM"]


@PERTURBATIONS.register("sam")
@dataclass(frozen=True)
class PlainSAM(Perturbation):
    r"""SAM: $\epsilon = \rho\, g / \|g\|_2$, the norm over all parameters together.

    Args:
        rho: radius in weight space, at least 0; 0.05 in the paper and in most later work.

    Example:
        >>> PlainSAM(rho=0.02).rho
        0.02

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
    arXiv 2010.01412. Differs: no constant is added to the norm; a gradient of norm zero leaves the weights in
    place.
    """

    def displace(self, slots: AscentSlots, rho: float) -> Tensor:
        """Overwrite the gradients with w + epsilon; see `Perturbation.displace`."""
        norm = slots.norm(slots.buffers)
        slots.ascend(safe_ratio(rho, norm))
        return norm
