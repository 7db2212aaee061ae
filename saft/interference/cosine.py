"""Cosine matrix of task vectors: how much the directions of two tasks overlap."""

from __future__ import annotations

from torch import Tensor

from saft.interference.weights import MEASURES

__all__ = ["Cosine"]


@MEASURES.register("cosine")
class Cosine:
    """Cosine of every pair of task vectors.

    ``cos_st = <x_s, x_t> / (||x_s|| ||x_t||)``

    Returns:
        `[n_tasks, n_tasks]`, symmetric, in [-1, 1], ones on the diagonal. A task vector of zeros has no
        direction: its row and column are 0, the diagonal included.

    Example:
        >>> import torch
        >>> measure = Cosine()
        >>> measure.value(measure.sums(torch.tensor([[1.0, 0.0], [3.0, 4.0]]).double()))
        [[1.0, 0.6], [0.6, 1.0]]

    Source:
        Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089, figure 5.
    """

    def sums(self, block: Tensor) -> Tensor:
        """Return the inner products of all pairs, `[n_tasks, n_tasks]`."""
        return block @ block.T

    def value(self, sums: Tensor) -> list[list[float]]:
        """Return the matrix of cosines."""
        norms = sums.diagonal().sqrt()
        moved = norms > 0
        norms = norms.where(moved, 1.0)
        cosines = (sums / norms.outer(norms)).clamp(-1.0, 1.0)
        cosines.diagonal().copy_(moved)  # 1 exactly, not 1 up to round-off
        matrix: list[list[float]] = cosines.tolist()
        return matrix
