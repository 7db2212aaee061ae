"""Friendly SAM: ascend along what is particular to this batch, the gradient less its running average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots

__all__ = ["FriendlySAM"]


@PERTURBATIONS.register("friendly_sam")
@dataclass(frozen=True)
class FriendlySAM(Perturbation):
    r"""F-SAM: $\epsilon = \rho\, d / \|d\|$, $d = g - \sigma m$; $m \leftarrow \lambda m + (1 - \lambda) g$.

    The average m stands for the full gradient; it starts as the first finite gradient, whose step is plain
    SAM's.

    Args:
        rho: radius in weight space, at least 0; 0.05 in the authors' class.
        sigma: how much of the average is taken away; 1 in the paper.
        decay: lambda in [0, 1), how slowly the average follows; 0.9 in the authors' class, 0.6 and 0.95 in
            their runs.

    Example:
        >>> FriendlySAM(decay=0.6).sigma
        1.0

    Source: Li et al., "Friendly Sharpness-Aware Minimization", CVPR 2024, arXiv 2403.12350. The order is that
    of the authors' code, d before m; the paper updates m first, which is the same direction where sigma is 1.
    """

    sigma: float = 1.0
    decay: float = 0.9

    has_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise UserError(f"FriendlySAM: decay: must be in [0, 1), but is {self.decay}")

    def displace(self, slots: AscentSlots, rho: float) -> Tensor:
        """Overwrite the gradients with w + epsilon; see `Perturbation.displace`."""
        new = [slot for slot in slots if "average" not in slot.memory]
        for slot in slots:
            if isinstance(slots.grad_scale, Tensor):
                slot.buffer.div_(slots.grad_scale.to(slot.buffer.device))
            if "average" in slot.memory:
                slot.buffer.sub_(slot.memory["average"], alpha=self.sigma)
        norm = slots.norm(slots.buffers)
        finite = norm.isfinite()
        kernels.clear_unless_(slots.buffers, finite)
        # With g = d + sigma m the average needs no copy of g.
        kept = 1 + finite.to(norm.dtype) * (self.decay + (1 - self.decay) * self.sigma - 1)
        for slot in slots:
            if "average" in slot.memory:
                average = slot.memory["average"]
                average.mul_(kept.to(average)).add_(slot.buffer, alpha=1 - self.decay)
        # The only wait for a device, at the start of an average: not at the zeros that stand for an overflow,
        # as a gradient scaler's first steps often are one.
        if new and finite:
            for slot in new:
                slot.memory["average"] = slot.buffer.clone()
        slots.ascend(kernels.safe_ratio(rho, norm))
        return norm
