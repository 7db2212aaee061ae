"""Iso-C: the sum of the task vectors with all its singular values made equal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saft.merging.algebra.svd import decompose, is_matrix
from saft.merging.method import Steps, Tensorwise, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["IsoC"]


@METHODS.register("iso_c")
@dataclass(frozen=True, kw_only=True)
class IsoC(Tensorwise):
    """Takes the sum of the task vectors and gives all singular values of each matrix their mean.

    Every matrix is treated so, embeddings as well; of other tensors (biases, norms, convolutions) the mean
    is taken. Singular values below rounding, of which the directions are arbitrary, are left
    out, also of the mean. Noise is amplified: a matrix whose true rank is low, as after LoRA, but which was
    rounded to few digits, gets the directions of the rounding as well.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(IsoC(), torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]))
        tensor([[2., 0.],
                [0., 2.]])
    """

    formula = "Σₜ τₜ = U diag(σ) Vᵀ;  τ = mean(σ) · U Vᵀ;  θ = θ0 + λ τ"
    card_template = (
        "of each matrix the sum of the task vectors with equal singular values; of other tensors the mean"
    )
    source = (
        "Marczak et al. 2025, No task left behind: isotropic model merging with common and task-specific "
        "subspaces (arXiv 2502.04959)"
    )
    deviations = (
        "nothing for sums of full rank; the authors' code adds arbitrary directions where the sum has none. "
        "λ is chosen on validation data; fusion_bench uses 1.5"
    )
    scaling = 1.0
    scaling_grid = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the merge of a tensor; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            added = total(block.task_vectors)
            if not is_matrix(block):
                return added / tasks
            left, values, right = decompose(added)
            mean = values.sum() / max(len(values), 1)
            return (mean * left @ right).to(block.base.dtype)

        return merge
