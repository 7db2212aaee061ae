"""TSV-M: the leading singular vectors of each task, made orthogonal between the tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra.svd import decompose, is_matrix, polar
from saft.merging.method import Steps, Tensorwise, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["TsvM"]


@METHODS.register("tsv_m")
@dataclass(frozen=True, kw_only=True)
class TsvM(Tensorwise):
    """Keeps the leading singular vectors of each task's matrices and decorrelates them between the tasks.

    Of a matrix [m, n] each task keeps min(m, n) / K directions, rounded down. Their left vectors, side by
    side, are replaced by the nearest orthonormal ones, and so are their right vectors. Every matrix is
    treated so, embeddings as well; of other tensors (biases, norms, convolutions), and of matrices with
    fewer rows or columns than there are tasks, the mean is taken. Directions that a task does not have, such
    as all of a task of zeros, take no part; those that two tasks share are shared out between them.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(TsvM(), torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]]))
        tensor([[3., 0.],
                [0., 2.]])
    """

    formula = (
        "τₜ ≈ Uₜ Σₜ Vₜᵀ, cut to min(m, n) / K directions;  τ = polar([U1 … UK]) · diag(Σ1 … ΣK) · "
        "polar([V1 … VK])ᵀ;  polar(A) = the U Vᵀ of A = U S Vᵀ;  θ = θ0 + λ τ"
    )
    card_template = (
        "of each matrix the leading singular vectors of every task, made orthogonal between the tasks; of "
        "other tensors the mean"
    )
    source = "Gargiulo et al. 2025, Task singular vectors: reducing task interference (arXiv 2412.00081)"
    deviations = (
        "nothing for matrices of full rank; the authors' code lets vectors that belong to no singular value "
        "take part in making orthogonal, and gives zeros where min(m, n) is less than the number of tasks"
    )
    scaling = 1.0
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the merge of a tensor; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            directions = min(block.base.shape) // tasks if is_matrix(block) else 0
            if directions == 0:
                return total(block.task_vectors) / tasks
            parts = [decompose(task_vector, directions) for task_vector in block.task_vectors]
            left, values, right = zip(*parts, strict=True)
            merged = polar(torch.cat(left, dim=1)) * torch.cat(values) @ polar(torch.cat(right))
            return merged.to(block.base.dtype)

        return merge
