"""LookSAM: replay on every k-th step, and reuse in between what the replay added to the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.perturbations.base import PERTURBATIONS
from saft.optim.perturbations.sam import PlainSAM
from saft.optim.slots import AscentSlots

__all__ = ["LookSAM"]


@PERTURBATIONS.register("looksam")
@dataclass(frozen=True)
class LookSAM(PlainSAM):
    r"""LookSAM: SAM on every k-th step; between, the step goes along $g + \alpha \|g\|\, g_v / \|g_v\|$.

    $g_v = \tilde g - g \langle g, \tilde g\rangle / \|g\|^2$, from the last replay: the part of the replayed
    gradient at a right angle to the first, which changes slowly. Norms and products are over all parameters
    together.

    Args:
        rho: radius in weight space, at least 0.
        every: k, number of steps from one replay to the next.
        alpha: weight of the reused part, at least 0; 0.7 in the paper, 0.2 in the MSAM authors' comparison.

    Example:
        >>> LookSAM().every
        5

    Source: Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022, arXiv
    2203.02714 (without its layer-wise scaling for large batches). Keeps g_v from step to step, and a copy of
    the first gradient while the replay runs.
    """

    rho: float = 0.1
    every: int = 5
    alpha: float = 0.7

    has_memory: ClassVar[bool] = True
    finishes_gradient: ClassVar[bool] = True
    uses_first_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise UserError(f"LookSAM: alpha: must be at least 0, but is {self.alpha}")

    def keep(self, slots: AscentSlots) -> dict[Tensor, Tensor]:
        """Return a copy of the first gradients: parameter -> gradient, in its shape."""
        return {slot.parameter: slot.buffer.clone() for slot in slots}

    def descend(self, slots: AscentSlots, kept: dict[Tensor, Tensor]) -> None:
        r"""Remember $g_v / \|g_v\|$; the replayed gradients are the descent gradient as they are."""
        both = slots.where(lambda slot: slot.parameter in kept)
        if not len(both):
            return
        first = [kept[slot.parameter] for slot in both]
        along = kernels.safe_ratio(both.dot(first, both.buffers), both.norm(first).square())
        for g, slot in zip(first, both, strict=True):
            g.mul_(-along.to(g)).add_(slot.buffer)
        norm = both.norm(first)
        finite = norm.isfinite()
        kernels.clear_unless_(first, finite)
        for g, slot in zip(first, both, strict=True):
            g.mul_(kernels.safe_ratio(1.0, norm).to(g))
            if "direction" in slot.memory:  # the old one stays if the new one is not finite
                g.add_(slot.memory["direction"].mul_((~finite).to(g)))
            slot.memory["direction"] = g

    def finish(self, slots: AscentSlots, rho: float) -> None:
        r"""Add $\alpha \|g\| g_v / \|g_v\|$ to the gradients."""
        known = slots.where(lambda slot: "direction" in slot.memory)
        if not len(known):
            return
        size = self.alpha * known.norm(known.buffers)
        for slot in known:
            slot.buffer.addcmul_(slot.memory["direction"], size.to(slot.buffer))
