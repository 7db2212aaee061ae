"""L1 norms of task vectors: the sum of all that fine-tuning moved."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import WeightMeasure

__all__ = ["L1Norm"]


@MEASURES.register("norm_l1")
class L1Norm(WeightMeasure):
    r"""L1 norm of every task vector.

    .. math:: \lVert x_t \rVert_1 = \sum_i \lvert x_{ti} \rvert

    Example:
        >>> import torch
        >>> L1Norm().values(L1Norm().sums(torch.tensor([[3.0, -4.0]])))["norm_l1"].tolist()
        [7.0]
    """

    quantities: ClassVar[dict[str, Quantity]] = {
        "norm_l1": Quantity(
            "L1 norm of the task vector: the sum of all its magnitudes", per="task", definition="Σ_i |τ_ti|"
        )
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return the magnitudes, summed, `[n_tasks]`.

        Args:
            block: float64 `[n_tasks, n]`.
        """
        return block.abs().sum(dim=1)

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the norm of each task, `[n_tasks]`."""
        return {"norm_l1": sums}
