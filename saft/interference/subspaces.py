"""Subspaces of task matrices: how much of one task lies where another acts, and how far they interfere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saft.config import OpenFraction, checked
from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import MatrixMeasure

__all__ = ["Subspaces", "singular_interference", "subspace_alignment"]


@MEASURES.register("subspaces")
@checked
@dataclass(frozen=True)
class Subspaces(MatrixMeasure):
    """How much the matrices of two tasks act in the same directions, mean over the linear layers that move.

    See `subspace_alignment`, whose mean is over the matrices that its row's task moves, and
    `singular_interference`, whose mean is over those that any task moves: an adapter of one matrix is as
    aligned with itself as a whole model. Takes an eigendecomposition of each matrix: seconds
    for a model of 20 million parameters, far longer for one of billions.

    Args:
        error: share of a matrix's norm that its dominant subspace may leave out, between 0 and 1.

    Example:
        >>> Subspaces().sums(torch.eye(2).repeat(2, 1, 1).double()).shape
        torch.Size([4, 2, 2])
    """

    error: OpenFraction = 0.05

    quantities: ClassVar[dict[str, Quantity]] = {
        "subspace_alignment": Quantity(
            "share of a task's matrices that lies in the dominant output directions of another's, mean over "
            "those that it moves",
            "%",
            per="pair",
            scale=100,
            decimals=1,
            axes=("matrices of", "directions of"),
            definition="‖U_k U_kᵀ Δ_s‖ / ‖Δ_s‖, U_k the first left singular vectors of Δ_t",
            source="Marczak et al. 2025, arXiv 2502.04959",
            cell="share of the row's matrices that lies in the dominant output directions of the column's",
        ),
        "singular_interference": Quantity(
            "singular task interference, mean over matrices that move: 0 where tasks are orthogonal",
            definition="‖(UᵀU − I) Σ (VᵀV − I)‖₁, over the first singular vectors of all tasks",
            source="Gargiulo et al. 2025, arXiv 2412.00081",
        ),
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return alignments, interference and their counts of one tensor: `[4, n_tasks, n_tasks]`.

        Args:
            block: float64 `[n_tasks, rows, columns]`.
        """
        alignment = subspace_alignment(block, self.error)
        ones = torch.ones_like(alignment)
        moved = block.flatten(1).count_nonzero(dim=1).clamp(max=1).to(alignment)
        interference = singular_interference(block) * ones
        return torch.stack([alignment, moved[:, None] * ones, interference, moved.amax() * ones])

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the means over the tensors; 0 where a task moves none of them.

        Args:
            sums: what `sums` returned, added up over all tensors.
        """
        alignment, by_task, interference, by_any = sums
        return {
            "subspace_alignment": alignment / by_task.clamp_min(1),
            "singular_interference": (interference / by_any.clamp_min(1))[0, 0],
        }


def subspace_alignment(matrices: Tensor, error: float = 0.05) -> Tensor:
    r"""Return the share of each matrix that lies in the dominant output directions of each other.

    .. math:: a_{st} = \frac{\lVert U_k U_k^\top \Delta_s \rVert_F}{\lVert \Delta_s \rVert_F}, \qquad
       k = \min\{j : \lVert \Delta_t - U_j U_j^\top \Delta_t \rVert_F \le \epsilon \lVert \Delta_t \rVert_F\}

    Args:
        matrices: `[n_tasks, rows, columns]`, float64.
        error: epsilon, in (0, 1).

    Returns:
        `[n_tasks, n_tasks]`, row s and column t, in [0, 1]; 0 in the row and column of a matrix of zeros.

    Example:
        >>> subspace_alignment(torch.diag_embed(torch.tensor([[2.0, 0.0], [1.0, 1.0]])).double())
        tensor([[1.0000, 1.0000],
                [0.7071, 1.0000]], dtype=torch.float64)

    Source: Marczak et al. 2025, "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific
        Subspaces", arXiv 2502.04959, equation 5, of two tasks instead of a task and the merge.
    """
    lengths = matrices.flatten(1).norm(dim=1)
    result = torch.zeros(len(matrices), len(matrices), dtype=matrices.dtype, device=matrices.device)
    for t, matrix in enumerate(matrices):
        if lengths[t] == 0:
            continue
        left, values, _ = _svd(matrix)
        left_out = (values.square().sum() - values.square().cumsum(0)).clamp_min(0).sqrt()
        k = int((left_out > error * lengths[t]).sum()) + 1
        inside = (left[:, :k].T @ matrices).flatten(1).norm(dim=1)
        result[:, t] = (inside / lengths.where(lengths > 0, 1.0)).clamp(max=1.0)
    return result


def singular_interference(matrices: Tensor) -> float:
    r"""Return how far the singular vectors of the tasks interfere when the matrices are added.

    .. math:: \left\lVert (U^\top U - I)\, \Sigma\, (V^\top V - I) \right\rVert_1

    U and V are the first singular vectors of all tasks side by side, as many of each as the smaller side of
    the matrices divided by the number of tasks, at least one, and Sigma their singular values. A vector whose
    value is less than a millionth of the matrix's largest is rounding, and left out.

    Args:
        matrices: `[n_tasks, rows, columns]`, float64.

    Returns:
        At least 0, in units of weights.

    Example:
        >>> apart = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]).double()
        >>> singular_interference(apart), singular_interference(apart[:1].repeat(2, 1, 1))
        (0.0, 2.0)

    Source: Gargiulo et al. 2025, "Task Singular Vectors: Reducing Task Interference in Model Merging", arXiv
        2412.00081, equation 3.
    """
    rank = max(min(matrices.shape[1:]) // len(matrices), 1)
    parts = [_svd(matrix) for matrix in matrices]
    left = torch.cat([u[:, :rank] for u, _, _ in parts], dim=1)
    values = torch.cat([s[:rank] for _, s, _ in parts])
    right = torch.cat([v[:, :rank] for _, _, v in parts], dim=1)
    own = values > 0  # a vector that is not there is orthogonal to all
    identity = torch.diag(own.to(values.dtype))
    return float(((left.T @ left - identity) @ torch.diag(values) @ (right.T @ right - identity)).abs().sum())


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return left singular vectors, values, right singular vectors, from the Gram matrix of the smaller side.

    Far faster than a singular value decomposition; what is below a millionth of the largest counts as zero.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = _svd(matrix.T)
        return left, values, right
    squares, left = torch.linalg.eigh(matrix @ matrix.T)
    values = squares.flip(0).clamp_min(0).sqrt()
    left = left.flip(1)
    there = values > 1e-6 * values[0]
    values = values.where(there, 0.0)
    right = (matrix.T @ left) / values.where(there, 1.0) * there
    return left * there, values, right
