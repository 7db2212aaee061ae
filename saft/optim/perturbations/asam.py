"""Adaptive SAM: an ascent step in a space where every weight is measured by its own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots, Slot

__all__ = ["ASAM", "ASAMDavda54", "ASAMSaft"]


@PERTURBATIONS.register("asam")
@dataclass(frozen=True)
class ASAM(Perturbation):
    r"""ASAM: $\epsilon = \rho\, T^2 g / \|T g\|_2$, $T = |w| + \eta$, so that $\|T^{-1}\epsilon\|_2 = \rho$.

    Three variants are in use, and their rho are not interchangeable: the original (this class), and
    "asam_davda54" and "asam_saft", which rescale every tensor and have no eta.

    Args:
        rho: radius in the rescaled space, at least 0; the paper takes 0.5 (CIFAR-10) and 1.0 (CIFAR-100).
        eta: added to |w|, at least 0; keeps weights at zero movable.
        scope: which tensors are rescaled: "weights", those whose name contains "weight", the others having T
            = 1 (the original); or "all".

    Example:
        >>> ASAM(rho=0.5, eta=0.01, scope="all").eta
        0.01

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
    Neural Networks", ICML 2021, arXiv 2102.11600; the scope is that of the authors' code.
    """

    rho: float = 0.5
    eta: float = 0.01
    scope: Literal["weights", "all"] = "weights"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta >= 0:
            raise UserError(f"{type(self).__name__}: eta: must be at least 0, but is {self.eta}")
        if self.scope not in ("weights", "all"):
            raise UserError(
                f"{type(self).__name__}: scope: must be 'weights' or 'all', but is '{self.scope}'"
            )

    @property
    def not_as_others(self) -> str | None:
        """Why rho cannot be the length of the others' task vectors; None where it can."""
        return super().not_as_others or (None if self.eta else "eta is 0, so a weight near 0 is all of it")

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Names are read where they tell which tensors are rescaled."""
        return self.scope == "weights"

    def displace(self, slots: AscentSlots, rho: float) -> Tensor:
        """Overwrite the gradients with w + epsilon; see `Perturbation.displace`."""

        def rescale(block: kernels.TensorBlock) -> list[Tensor]:
            t = kernels.magnitudes(block, self.eta)
            torch._foreach_mul_(block.buffers, t)
            norms = torch._foreach_norm(block.buffers)
            torch._foreach_mul_(block.buffers, t)
            return list(norms)

        norm = slots.norm_by_blocks(rescale, self._rescales)
        slots.ascend(kernels.safe_ratio(rho, norm))
        return norm

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        r"""Return $\|T^{-1}\epsilon\|_2$; a weight that cannot move (T = 0) counts nothing."""
        rescaled = [
            torch.nan_to_num(e / (slot.weight.abs() + self.eta)) if self._rescales(slot) else e
            for slot, e in zip(slots, epsilon, strict=True)
        ]
        return slots.norm(rescaled)

    def _rescales(self, slot: Slot) -> bool:
        return self.scope == "all" or "weight" in slot.label.name


@PERTURBATIONS.register("asam_davda54")
@dataclass(frozen=True)
class ASAMDavda54(ASAM):
    r"""ASAM as in davda54/sam and pytorch_optimizer: $T = |w|$ on every tensor, no eta.

    Args:
        rho: radius in the rescaled space, at least 0; 2.0 in that repository's example.

    Example:
        >>> ASAMDavda54().scope
        'all'

    Source: github.com/davda54/sam, `adaptive=True`. A weight that is exactly 0 (a fresh bias) never moves.
    """

    rho: float = 2.0
    eta: float = 0.0
    scope: Literal["weights", "all"] = "all"


@PERTURBATIONS.register("asam_saft")
@dataclass(frozen=True)
class ASAMSaft(ASAMDavda54):
    r"""ASAM as in the SAFT code: $T = |w|$ on every tensor, no eta, rho 0.5.

    Args:
        rho: radius in the rescaled space, at least 0.

    Example:
        >>> ASAMSaft().rho
        0.5

    Source: Lee et al., "Mitigating Parameter Interference in Model Merging via Sharpness-Aware Fine-Tuning",
    ICLR 2025, arXiv 2504.14662; github.com/BAIKLAB/SAFT-Merge, `--is-asam --rho 0.5`. Differs: the released
    loop never zeroes gradients and clips only the ascent gradient; neither is reproduced.
    """

    rho: float = 0.5
