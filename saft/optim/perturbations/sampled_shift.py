"""A sampled shift: train at weights moved as merging would move them, with one pass a step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots

__all__ = ["SampledShift"]


_BELOW_ONE = 1 - 2**-24  # whose logarithm of what is left is finite


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
    the way; the draw is rescaled so that its mean magnitude is rho exactly.
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
        generators: dict[torch.device, torch.Generator] = {}
        for slot in slots:
            device = slot.buffer.device
            if device not in generators:
                generators[device] = torch.Generator(device)
                generators[device].manual_seed(self._seed(slots.step, *slot.shard))
            slot.buffer.uniform_(-1, 1, generator=generators[device])
        for block in slots.blocks():  # by the inverse of Laplace's distribution function
            for buffer, size in zip(block.buffers, block.scratch(), strict=True):
                torch.abs(buffer, out=size).clamp_(max=_BELOW_ONE).neg_().log1p_()
                buffer.sign_().mul_(size)
        scale = rho * self.factor(slots.step) / self._mean_magnitude(slots, slots.buffers)
        slots.ascend(torch.nan_to_num(scale))

    def factor(self, step: int) -> float:
        """Return K alpha - 1, as drawn for a step."""
        draw = random.Random(self._seed(step))
        return draw.randint(1, self.n_models) * draw.uniform(*self.coefficients) - 1

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        """Return the mean magnitude of the entries of z."""
        return self._mean_magnitude(slots, epsilon) / abs(self.factor(slots.step))

    def _mean_magnitude(self, slots: AscentSlots, tensors: Sequence[Tensor]) -> Tensor:
        return slots.total([t.abs().sum() for t in tensors]) / slots.n_elements

    def _seed(self, *parts: int) -> int:
        return random.Random(repr((self.seed, *parts))).getrandbits(63)
