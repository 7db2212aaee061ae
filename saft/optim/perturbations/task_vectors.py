"""The other tasks' own task vectors: train where merging will put the weights, with one pass a step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.optim.slots import AscentSlots, Slot

__all__ = ["TaskVectors"]


@PERTURBATIONS.register("task_vectors")
@dataclass(frozen=True)
class TaskVectors(Perturbation):
    r"""A shift along the sum of the other tasks' task vectors: $\epsilon = c \sum_{j \ne i} \tau_j$.

    c is uniform in [0, `rho`], one number for the model; it depends only on `seed` and the number of the
    step. So the expert learns weights that are good wherever a merge may put them, its coefficient not being
    known yet. The task vectors are those of an earlier round of training, or of anyone's experts that it is
    to be merged with: `saft train` takes them as `others`, an arm of `saft run` trains them as `first_round`.

    Args:
        rho: largest coefficient c, at least 0; 0 turns it off. A little more than what such experts are
            merged with: 0.5 to 0.6 for eight text tasks and for five of images.
        seed: of the draws.
        vectors: name of a parameter -> the sum of the others' changes of it from the common base, in the
            parameter's shape; those that are not named are not shifted.

    Example:
        >>> TaskVectors(rho=0.6).passes(100)
        100.0

    Source: the shift that task arithmetic makes (Ilharco et al., "Editing Models with Task Arithmetic", ICLR
    2023), as training's own. Related: Yang et al., "MergOPT", ICLR 2026, which draws the shift from a
    distribution; see `sampled_shift`.
    """

    rho: float = 0.5
    seed: int = 0
    vectors: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    replays: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    needs_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vectors, Mapping | None):
            raise UserError(
                "TaskVectors: vectors: must be a mapping from names of parameters to tensors, but is "
                f"{self.vectors!r}; in a config `others` or `first_round` stands for them"
            )

    @classmethod
    def not_for_configs(cls) -> set[str]:
        """Return the fields that no config can give a value: the vectors among them."""
        return super().not_for_configs() | {"vectors"}

    def displace(self, slots: AscentSlots, rho: float) -> None:
        """Fill the buffers with w + epsilon; see `Perturbation.displace`.

        Raises:
            UserError: no task vectors are given, or they are those of another model.
        """
        share, vectors = rho * self._share(slots.step), [self._vector(slot) for slot in slots]
        if all(vector is None for vector in vectors):
            names = ", ".join(list(self.vectors or {})[:3])
            raise UserError(
                "TaskVectors: vectors: are of none of the trained parameters, but of "
                f"{names or 'nothing'}; name them as the model's named_parameters() does"
            )
        for slot, vector in zip(slots, vectors, strict=True):
            slot.buffer.zero_() if vector is None else slot.buffer.copy_(vector)
            slot.buffer.mul_(share).add_(slot.weight)

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        """Return the length of epsilon over that of the task vectors' sum, as c is uniform in [0, rho]."""
        vectors = [self._vector(slot) for slot in slots]
        whole = [
            torch.zeros_like(part) if vector is None else vector.to(part)
            for vector, part in zip(vectors, epsilon, strict=True)
        ]
        return slots.norm(epsilon) / slots.norm(whole) / self._share(slots.step)

    def _share(self, step: int) -> float:
        """Return c over rho at a step."""
        return random.Random(repr((self.seed, step))).uniform(0, 1)

    def _vector(self, slot: Slot) -> Tensor | None:
        if self.vectors is None:
            raise UserError(
                "TaskVectors: vectors: are missing: the sum of the other tasks' task vectors, by the names of"
                " the parameters; `saft train` makes it of `others`"
            )
        vector = self.vectors.get(slot.label.name)
        if vector is not None and vector.shape != slot.weight.shape:
            raise UserError(
                f"TaskVectors: vectors: {slot.label.name} has the shape {list(vector.shape)}, but the "
                f"parameter's is {list(slot.weight.shape)}; a parameter in shards or with a sparse gradient "
                "cannot be shifted"
            )
        return vector
