"""OPCM: one model after the other, each without what the merged model already has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra.svd import decompose, is_matrix
from saft.merging.method import Steps, Sums, Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Opcm"]


@METHODS.register("opcm")
@dataclass(frozen=True, kw_only=True)
class Opcm(Tensorwise):
    """Adds one task vector after the other, each without its part in the merged model's leading directions.

    With U, σ and V of what was merged before, a task's matrix is taken as P = Uᵀ τₜ V. The diagonal of P is
    set to zero, and the block of the first r directions: those whose singular values do not yet add up to
    more than the share alpha of all of them. What is left is added. So what P has beside that block stays:
    the tasks do not become wholly orthogonal. Every matrix is treated so, embeddings as well; other tensors
    are added as they are. The order of the models counts.

    At each step the paper scales the merged task vector to the mean norm of the task vectors so far. Since
    the directions do not depend on the scale, scaling once at the end gives the same. So each
    tensor can be merged by itself; it is done twice, the first time for the norm, and the memory holds one
    tensor of each model and not the merged model. Where the task vectors add up to zero the base comes out; a
    task of zeros adds nothing, but counts in the mean norm.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> vectors = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [0.0, 0.0]]])
        >>> merge_task_vectors(Opcm(), vectors)
        tensor([[1.8257, 0.9129],
                [0.0000, 0.9129]])
    """

    alpha: float = parameter(
        0.5,
        "share of the sum of the singular values whose directions a new task may not touch",
        at_least=0,
        below=1,
    )

    formula = (
        "δ1 = τ1;  δₜ = δₜ₋₁ + U P̂ Vᵀ with δₜ₋₁ = U diag(σ) Vᵀ and P̂ = Uᵀ τₜ V without diagonal and leading "
        "block;  τ = δ_K · mean ‖τₜ‖ / ‖δ_K‖ over the whole model;  θ = θ0 + λ τ"
    )
    card_template = (
        "the task vectors added one after the other, of each matrix without what lies in the merged model's "
        "leading directions (alpha {alpha:g}), scaled to their mean norm"
    )
    source = (
        "Tang et al. 2025, Merging models on the fly without retraining: a sequential approach to scalable "
        "continual model merging (arXiv 2501.09522)"
    )
    deviations = (
        "the authors take only matrices of linear layers, here embeddings are matrices too; they shuffle "
        "the models, here they come in the order given; directions that the merged model lacks are not drawn"
    )
    statistics_over = "model"
    scaling = 1.0
    scaling_grid = (1.0,)
    ordered = True

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the norms of the task vectors and of what they add up to; return the sum, scaled."""

        def squares(block: Block) -> Tensor:
            rows = [self._added(block), *block.task_vectors]
            norms = torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in rows])
            return norms.square().unsqueeze(1)

        merged, *norms = (yield Sums(squares)).sqrt().flatten().tolist()
        scale = sum(norms) / tasks / merged if merged else 0.0
        # float32 cannot hold the scale of a sum that is nearly zero
        return lambda block: self._added(block).double().mul_(scale).to(block.base.dtype)

    def _added(self, block: Block) -> Tensor:
        """Return δ_K of one tensor."""
        merged = block.task_vectors[0]
        for task_vector in block.task_vectors[1:]:
            merged = merged + (self._rest(merged, task_vector) if is_matrix(block) else task_vector)
        return merged

    def _rest(self, merged: Tensor, task_vector: Tensor) -> Tensor:
        left, values, right = decompose(merged)
        if len(values) == 0:
            return task_vector
        leading = int((values.cumsum(0) / values.sum() > self.alpha).float().argmax())
        inner = left.T @ task_vector.double() @ right.T
        taken = inner.diagonal().diag()
        taken[:leading, :leading] = inner[:leading, :leading]
        return task_vector - (left @ taken @ right).to(task_vector.dtype)
