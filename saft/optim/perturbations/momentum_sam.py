"""Momentum SAM: descend from a point ahead on the optimizer's own momentum, with one pass a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots, Slot

__all__ = ["MomentumSAM"]

# What the optimizers of torch and most others call an average of past gradients.
_BUFFERS = ("exp_avg", "momentum_buffer")

_NO_MOMENTUM = (
    "MomentumSAM needs the momentum of the base optimizer, which keeps none: use Adam, AdamW, or SGD with"
    " momentum=0.9"
)


@PERTURBATIONS.register("momentum_sam")
@dataclass(frozen=True)
class MomentumSAM(Perturbation):
    r"""MSAM: $\epsilon = -\rho\, v / \|v\|_2$, v being the base optimizer's momentum; no second pass.

    The one forward and backward of the step runs at w + epsilon. The first step has no momentum, and none is
    added.

    Args:
        rho: radius in weight space, at least 0; 0.3 in the authors' class for SGD, up to 3 in their commands.
        in_place: add epsilon to the weights and subtract it again, instead of writing w + epsilon beside w,
            which takes one more copy of the weights while the pass runs. Bit for bit as well: the weights
            that rounding changes, about one in 200 at rho 0.3, are kept. It is slower, and waits for a device
            other than the CPU, to count them.

    Example:
        >>> MomentumSAM().replays
        False

    Source: Becker et al., "Momentum-SAM: Sharpness Aware Minimization without Computational Overhead", 2024,
    arXiv 2401.12033. Differs: the weights are perturbed only during the pass, not between steps, so
    checkpoints and evaluation need no care; several parameter groups are one vector.
    """

    rho: float = 0.3
    in_place: bool = False

    replays: ClassVar[bool] = False

    @property
    def shifts_in_place(self) -> bool:  # type: ignore[override]
        """Whether epsilon is added to the weights where they are."""
        return self.in_place

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Check that the base optimizer keeps a momentum; see `Perturbation.check_optimizer`.

        Raises:
            UserError: it does not.
        """
        if not any(state.get(name) is not None for state in optimizer.state.values() for name in _BUFFERS):
            raise UserError(_NO_MOMENTUM)

    def displace(self, slots: AscentSlots, rho: float) -> None:
        """Fill the buffers with w + epsilon; see `Perturbation.displace`.

        Raises:
            UserError: after the first step, the base optimizer keeps no momentum.
        """
        momenta = [_momentum(slot) for slot in slots]
        moving = AscentSlots([slot for slot, v in zip(slots, momenta, strict=True) if v is not None])
        known = [v for v in momenta if v is not None]
        if not known and slots.step > 0:
            raise UserError(_NO_MOMENTUM)
        scale = -kernels.safe_ratio(rho, moving.norm(known)) if known else None
        for slot, v in zip(slots, momenta, strict=True):
            if self.in_place:
                slot.shift = None if v is None or scale is None else (v, scale)
            elif v is None or scale is None:
                slot.buffer.copy_(slot.weight)
            else:
                kernels.ascend_([slot.weight], [slot.buffer], scale, along=[v])


def _momentum(slot: Slot) -> Tensor | None:
    for name in _BUFFERS:
        momentum: Tensor | None = slot.optimizer_state.get(name)
        if momentum is not None:
            if momentum.layout is not torch.strided:
                raise UserError(
                    "MomentumSAM: the base optimizer keeps a sparse momentum, as of a sparse embedding: use"
                    " dense gradients (sparse=False)"
                )
            return slot.local(momentum)
    return None
