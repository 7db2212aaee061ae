"""Cosine matrix of task vectors: how much the directions of two tasks overlap."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import WeightMeasure, of_task_vectors

__all__ = ["Cosine", "cosine"]


def cosine(task_vectors: Tensor) -> Tensor:
    """Return the cosine of every pair of task vectors.

    ``cos_st = <x_s, x_t> / (||x_s|| ||x_t||)``

    Args:
        task_vectors: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; summed in float64.

    Returns:
        `[n_tasks, n_tasks]`, float64, symmetric, in [-1, 1], ones on the diagonal. A task vector of zeros has
        no direction: its row and column are 0, the diagonal included.

    Example:
        >>> import torch
        >>> cosine(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).tolist()
        [[1.0, 0.6], [0.6, 1.0]]

    Source:
        Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089, figure 5.
    """
    return of_task_vectors(Cosine(), task_vectors)["cosine"]


@MEASURES.register("cosine")
class Cosine(WeightMeasure):
    """Cosine of every pair of task vectors.

    Example:
        >>> import torch
        >>> Cosine().sums(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).tolist()
        [[1.0, 3.0], [3.0, 25.0]]
    """

    by_layer = ("cosine",)
    of_products = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "cosine": Quantity(
            "cosine of the task vectors of two tasks: how much their directions overlap",
            per="pair",
            decimals=3,
            definition="cos_st = ⟨τ_s, τ_t⟩ / (‖τ_s‖ ‖τ_t‖)",
            source="Ilharco et al. 2023, arXiv 2212.04089",
            cell="cosine of the two tasks' vectors, the same both ways: 0 is orthogonal, below 0 they pull "
            "against each other",
        )
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return the inner products of all pairs, `[n_tasks, n_tasks]`.

        Args:
            block: float64 `[n_tasks, n]`.
        """
        return block @ block.T

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the matrix of cosines, `[n_tasks, n_tasks]`."""
        norms = sums.diagonal().sqrt()
        moved = norms > 0
        norms = norms.where(moved, 1.0)
        cosines = (sums / norms.outer(norms)).clamp(-1.0, 1.0)
        cosines.diagonal().copy_(moved)  # 1 exactly, not 1 up to round-off
        return {"cosine": cosines}
