"""Iso-CTS: equal singular values in a subspace common to the tasks and in one for each task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra.svd import decompose, is_matrix, polar
from saft.merging.method import Steps, Tensorwise, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["IsoCts"]


@METHODS.register("iso_cts")
@dataclass(frozen=True, kw_only=True)
class IsoCts(Tensorwise):
    """Keeps the leading directions of the sum, adds some of each task, and makes all singular values equal.

    Of the min(m, n) directions of a matrix a share is for the leading ones of the sum. The rest is shared
    out evenly: each task adds the leading directions of what the sum's do not span of it. What does not
    divide evenly goes to the sum. All left vectors are replaced by the nearest orthonormal ones, all right
    vectors too, and all singular values by their mean. Where nothing is left for the tasks, or of them, as
    where the sum spans LoRA adapters, this is Iso-C. Every matrix is treated so, embeddings as well; of other
    tensors the mean is taken. Directions that the sum or a task does not have are left out, of the mean of
    the singular values as well; noise is amplified, as in Iso-C.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> vectors = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
        >>> merge_task_vectors(IsoCts(), vectors)
        tensor([[2., 0.],
                [0., 2.]])
    """

    common: float = parameter(
        0.8, "share of the directions that are for the sum of the task vectors", at_least=0, at_most=1
    )

    formula = (
        "Σₜ τₜ = U σ Vᵀ, cut to c directions;  τₜ − U Uᵀ τₜ = Uₜ σₜ Vₜᵀ, cut to s;  K s + c = min(m, n);  "
        "τ = mean(σ1 … σK, σ) · polar([U1 … UK U]) · polar([V1 … VK V])ᵀ;  θ = θ0 + λ τ"
    )
    card_template = (
        "of each matrix the leading directions of the sum of the task vectors (a share of {common:g}) and of "
        "what is left of each task, with equal singular values; of other tensors the mean"
    )
    source = (
        "Marczak et al. 2025, No task left behind: isotropic model merging with common and task-specific "
        "subspaces (arXiv 2502.04959)"
    )
    deviations = (
        "nothing for matrices of full rank; the authors' code adds arbitrary directions where there are none "
        "and stops where rounding shares out more directions than there are. fusion_bench uses λ = 1.5"
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
            common, each = self.share_out(min(added.shape), tasks)
            parts = [decompose(added, common)]
            span = parts[0][0]
            for task_vector in block.task_vectors if each else ():
                whole = task_vector.double()
                rest = whole - span @ (span.T @ whole)
                # Of a task that the sum spans, as after LoRA, only rounding is left.
                parts.append(decompose(rest, each, beside=float(whole.norm())))
            left, spectra, right = zip(*parts, strict=True)
            values = torch.cat(spectra)
            mean = values.sum() / max(len(values), 1)
            return (mean * polar(torch.cat(left, dim=1)) @ polar(torch.cat(right))).to(block.base.dtype)

        return merge

    def share_out(self, directions: int, tasks: int) -> tuple[int, int]:
        """Return how many of the directions are for the sum, and how many for each task.

        Example:
            >>> IsoCts().share_out(768, 8)
            (616, 19)
        """
        rest = directions - int(directions * self.common)
        each = min(round(rest / tasks), directions // tasks)  # halves are rounded to even, as the authors do
        return directions - each * tasks, each
