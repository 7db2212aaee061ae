"""Norms of task vectors: how far fine-tuning moved each task."""

from __future__ import annotations

import torch
from torch import Tensor

from saft.interference.weights import MEASURES

__all__ = ["Norm"]


@MEASURES.register("norm")
class Norm:
    """L2 and L1 norm of every task vector.

    ``l2_t = sqrt(sum_i x_ti^2)``, ``l1_t = sum_i |x_ti|``

    Returns:
        ``{"l2": [n_tasks], "l1": [n_tasks]}``, in units of weights.

    Example:
        >>> measure = Norm()
        >>> measure.value(measure.sums(torch.tensor([[3.0, -4.0]]).double()))
        {'l2': [5.0], 'l1': [7.0]}
    """

    def sums(self, block: Tensor) -> Tensor:
        """Return squares and magnitudes, summed, `[2, n_tasks]`."""
        return torch.stack([block.square().sum(dim=1), block.abs().sum(dim=1)])

    def value(self, sums: Tensor) -> dict[str, list[float]]:
        """Return the two norms of each task."""
        return {"l2": sums[0].sqrt().tolist(), "l1": sums[1].tolist()}
