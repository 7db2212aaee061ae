"""Norms of task vectors: how far fine-tuning moved each task."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import WeightMeasure, of_task_vectors

__all__ = ["Norm", "norm"]


def norm(task_vectors: Tensor) -> Tensor:
    """Return the L2 norm of every task vector.

    ``||x_t|| = sqrt(sum_i x_ti^2)``

    Args:
        task_vectors: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; summed in float64.

    Returns:
        `[n_tasks]`, float64, in units of weights.

    Example:
        >>> import torch
        >>> norm(torch.tensor([[3.0, -4.0]])).tolist()
        [5.0]
    """
    return of_task_vectors(Norm(), task_vectors)["norm"]


@MEASURES.register("norm")
class Norm(WeightMeasure):
    r"""L2 norm of every task vector.

    .. math:: \lVert x_t \rVert_2 = \sqrt{\sum_i x_{ti}^2}

    Example:
        >>> import torch
        >>> Norm().values(Norm().sums(torch.tensor([[3.0, -4.0]])))["norm"].tolist()
        [5.0]
    """

    by_layer = ("norm",)
    of_products = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "norm": Quantity(
            "L2 norm of the task vector: how far fine-tuning moved the weights",
            per="task",
            definition="‖τ_t‖ = √(Σ_i τ_ti²)",
        )
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return the inner products of all pairs, of which the squares are used, `[n_tasks, n_tasks]`.

        Args:
            block: float64 `[n_tasks, n]`.
        """
        return block @ block.T

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the norm of each task, `[n_tasks]`."""
        return {"norm": sums.diagonal().sqrt()}
