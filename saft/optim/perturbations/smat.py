"""SMAT: now and then a step taken where merging would put the weights: scaled, masked and noisy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from saft.errors import UserError
from saft.optim import kernels
from saft.optim.generators import INTEGERS, Generators
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots, Slot

__all__ = ["SMAT"]


@PERTURBATIONS.register("smat")
@dataclass(frozen=True)
class SMAT(Perturbation):
    r"""Scale, mask and noise about the base: $w + \epsilon = w_0 + s \frac{m}{1 - q} (w - w_0) + u$.

    The one forward and backward of every k-th step runs there, and the step goes along the gradient with
    respect to w, which is $s \frac{m}{1 - q}$ times the one found there. s is uniform in `scale`, one number
    for the model; m is 0 or 1 with $P(m = 0) = q$ for each entry of a matrix, and 1, not divided, for
    embeddings and vectors; u is uniform, of root mean square rho, on every weight. All draws depend only on
    `seed` and the number of the step. w0 are the weights at the first such step: those of the base where
    `start` is 0. It is a copy of the weights, and part of the optimizer's checkpoints.

    Args:
        rho: root mean square of the noise, at least 0; 0 turns all of it off. 0.001 for CLIP and 0.002 for
            Llama-3.2-1B in the authors' configs; a tenth to the whole of the task vector's own.
        every: k, at least 1; the authors' 4.
        scale: [least, most] of s; the authors' least is 0.1 for CLIP, 0.2 for Llama-3.2-1B.
        drop: q in [0, 1), the share of a matrix's entries that are left out.
        seed: of the draws.

    Example:
        >>> SMAT().passes(100)
        100.0

    Source: "SMAT", September 2026, arXiv 2609.33437, and its code, egangu/smat. Differs: the noise is
    rescaled so that its root mean square over the model is rho exactly; it has 65536 levels, and q as many.
    Every matrix but an embedding is masked, a head's too, where the authors mask the blocks' linear layers;
    of k steps the first is such a one, theirs is the last.
    """

    rho: float = 1e-3
    every: int = 4
    scale: tuple[float, float] = (0.1, 1.0)
    drop: float = 0.5
    seed: int = 0

    replays: ClassVar[bool] = False
    has_memory: ClassVar[bool] = True
    finishes_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scale) != 2 or not 0 <= self.scale[0] <= self.scale[1] < math.inf:
            raise UserError(f"SMAT: scale: must be [least, most], both at least 0, but is {self.scale}")
        if not 0 <= self.drop < 1:
            raise UserError(f"SMAT: drop: must be in [0, 1), but is {self.drop}")

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Names are read where entries are left out: embeddings keep theirs."""
        return self.drop > 0

    def displace(self, slots: AscentSlots, rho: float) -> None:
        """Fill the buffers with w + epsilon; see `Perturbation.displace`."""
        noise = Generators(self.seed, slots.step, "noise")
        for slot in slots:
            if "base" not in slot.memory:
                slot.memory["base"] = slot.weight.clone()
            for (piece,) in kernels.pieces(slot.buffer):
                draw = noise.integers(slot, piece.numel()).view(piece.shape)
                piece.copy_(draw).add_(0.5).mul_(2**-15)
        length = rho / self._root_mean_square(slots, slots.buffers)
        for noisy, kept in self._beside_kept(slots, slots.buffers):
            noisy.mul_(length.to(noisy)).add_(kept)

    def finish(self, slots: AscentSlots, rho: float) -> None:
        """Take the gradient, found at w + epsilon, back to w; see `Perturbation.finish`."""
        for slot in slots if rho else ():
            scale_ = self._scaling(slot, slots.step)
            for gradient, _ in kernels.pieces(slot.buffer, slot.weight):  # cut as the weights were
                scale_(gradient)

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        """Return the root mean square of u."""
        noise = [slot.weight + e for slot, e in zip(slots, epsilon, strict=True)]
        for noisy, kept in self._beside_kept(slots, noise):
            noisy.sub_(kept)
        return self._root_mean_square(slots, noise)

    def _beside_kept(self, slots: AscentSlots, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pieces of the tensors, one a slot, each with its w0 + s m / (1 - q) (w - w0)."""
        for slot, tensor in zip(slots, tensors, strict=True):
            scale_ = self._scaling(slot, slots.step)
            for piece, weight, base in kernels.pieces(tensor, slot.weight, slot.memory["base"]):
                yield piece, scale_(weight - base).add_(base)

    def _scaling(self, slot: Slot, step: int) -> Callable[[Tensor], Tensor]:
        """Return what multiplies pieces of a slot's tensor, one after the other, by s m / (1 - q)."""
        scale = random.Random(repr((self.seed, step, "scale"))).uniform(*self.scale)
        if not self._masks(slot):
            return lambda piece: piece.mul_(scale)
        # By name, so that the mask is the same whatever other parameters there are.
        masks = Generators(self.seed, step, "mask", slot.label.name)
        left_out = min(round(self.drop * INTEGERS), INTEGERS - 1)  # of as many equally likely integers

        def masked(piece: Tensor) -> Tensor:  # bernoulli_ takes many times as long
            draw = masks.integers(slot, piece.numel()).view(piece.shape)
            return piece.mul_(draw >= left_out - INTEGERS // 2).mul_(scale / (1 - left_out / INTEGERS))

        return masked

    def _masks(self, slot: Slot) -> bool:
        called = f"{slot.label.layer} {slot.label.name}".lower()
        return self.drop > 0 and slot.parameter.dim() == 2 and "embed" not in called

    def _root_mean_square(self, slots: AscentSlots, tensors: Sequence[Tensor]) -> Tensor:
        return slots.norm(tensors) / math.sqrt(slots.n_elements)
