"""A sampled shift: train at weights moved as merging would move them, with one pass a step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.generators import INTEGERS, Generators, seed_of
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots

__all__ = ["SampledShift"]


@PERTURBATIONS.register("sampled_shift")
@dataclass(frozen=True)
class SampledShift(Perturbation):
    r"""A shift as merging makes it: $\epsilon = (K\alpha - 1)\, z$, $z \sim \text{Laplace}(0, \rho)$.

    Seen from one expert, merging K task vectors with coefficient alpha moves its weights by the others' task
    vectors and part of its own; these are replaced by a draw from the distribution of their entries. K is
    uniform in 1 ... `n_models`, alpha uniform in `coefficients`; all draws depend only on `seed` and the
    number of the step, so every micro-batch, every replica, and a resumed run see the same shift.

    Args:
        rho: scale of the Laplace distribution, at least 0: the mean magnitude of an entry of the task
            vectors, from an earlier run; about 2e-4 for CLIP ViT-B/32 fine-tuned as in task arithmetic.
        n_models: largest number of models merged, at least 1.
        coefficients: range of the scaling coefficient.
        seed: of the draws.

    Example:
        >>> SampledShift(rho=1e-3).replays
        False

    Source: Yang et al., "MergOPT: A Merge-Aware Optimizer for Robust Model Merging", ICLR 2026 (openreview
    C21rz8mo65), known to us only from summaries. Differs: one scale for all tensors, given and not fitted on
    the way; the draw is one of 65536 equally likely quantiles, none beyond 11.1 rho, and is rescaled so that
    its mean magnitude is rho exactly.
    """

    rho: float = 2e-4
    n_models: int = 8
    coefficients: tuple[float, float] = (0.2, 0.4)
    seed: int = 0

    replays: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.n_models >= 1:
            raise UserError(f"SampledShift: n_models: must be at least 1, but is {self.n_models}")
        if len(self.coefficients) != 2 or not self.coefficients[0] <= self.coefficients[1]:
            raise UserError(f"SampledShift: coefficients: must be [low, high], but is {self.coefficients}")

    def displace(self, slots: AscentSlots, rho: float) -> None:
        """Fill the buffers with w + epsilon; see `Perturbation.displace`."""
        generators = Generators(self.seed, slots.step)
        for slot in slots:
            quantiles = _quantiles(slot.buffer.device, slot.buffer.dtype)
            for (piece,) in kernels.pieces(slot.buffer):
                cells = generators.integers(slot, piece.numel()).int().add_(INTEGERS // 2)
                if piece.is_contiguous():
                    torch.index_select(quantiles, 0, cells, out=piece.view(-1))
                else:
                    piece.copy_(quantiles.index_select(0, cells).view(piece.shape))
        scale = rho * self.factor(slots.step) / self._mean_magnitude(slots, slots.buffers)
        slots.ascend(torch.nan_to_num(scale))

    def factor(self, step: int) -> float:
        """Return K alpha - 1, as drawn for a step."""
        draw = random.Random(seed_of(self.seed, step))
        return draw.randint(1, self.n_models) * draw.uniform(*self.coefficients) - 1

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        """Return the mean magnitude of the entries of z."""
        return self._mean_magnitude(slots, epsilon) / abs(self.factor(slots.step))

    def _mean_magnitude(self, slots: AscentSlots, tensors: Sequence[Tensor]) -> Tensor:
        sums = [torch.stack([piece.abs().sum() for (piece,) in kernels.pieces(t)]).sum() for t in tensors]
        return slots.total(sums) / slots.n_elements


@lru_cache
def _quantiles(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the middle of each of `INTEGERS` equally likely parts of Laplace(0, 1), rising."""
    upper = (
        torch.arange(INTEGERS // 2, dtype=torch.float64).add_(0.5).div_(INTEGERS // 2).neg_().log1p_().neg_()
    )
    return torch.cat([-upper.flip(0), upper]).to(device, dtype)
