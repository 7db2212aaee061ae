"""DOGE: task arithmetic whose task vectors are moved together, by descent, to where they interfere less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra.adam import adam
from saft.merging.algebra.svd import decompose, is_matrix
from saft.merging.method import OrderStatistics, Steps, Sums, Tensorwise, last_dropped, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Doge"]

_NOTHING = 1e-12  # norms below it count as zero: what their λ multiplies would overflow float32


@METHODS.register("doge")
@dataclass(frozen=True, kw_only=True)
class Doge(Tensorwise):
    """Adds to all task vectors one change, found by descent, that makes up for what their sum does to each.

    For each matrix: λₜ gives every task vector the same norm. The change Δ starts at zero, and Adam descends;
    each gradient is projected off the leading left singular vectors that the tasks share, so that what they
    have in common is spared (Adam's own scaling brings some of it back). Then of each task the largest
    entries over all matrices are kept, as TIES trims them, and the rest of τₜ + Δ is set to zero. All tensors
    that are not matrices (biases, norms, convolutions) stay those of the base. A task's matrix of zeros, or
    of a norm below 1e-12, is left out. With one task all its directions lead equally, and which are spared is
    arbitrary.

    Adam's steps are about as long as the learning rate, whatever the size of the task vectors: where these
    are much smaller than learning rate times iterations, Δ dominates them.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> vectors = torch.tensor([[[0.3, 0.0], [0.0, 0.4]], [[0.0, 0.6], [0.8, 0.0]]])
        >>> merge_task_vectors(Doge(density=1.0, iterations=0), vectors)
        tensor([[0.0420, 0.0420],
                [0.0560, 0.0560]])
    """

    density: float = parameter(
        0.3, "fraction of each task's entries in all matrices that are kept, the largest", above=0, at_most=1
    )
    norm: float = parameter(0.07, "of each task vector's matrix once it is scaled by its λₜ", above=0)
    subspace: int = parameter(
        6, "one of so many directions of a matrix, of the min(m, n), is in the shared subspace", at_least=1
    )
    iterations: int = parameter(400, "steps of Adam", at_least=0)
    learning_rate: float = parameter(1e-4, "of Adam: about how far an entry moves in a step", above=0)

    formula = (
        "λₜ = norm / ‖τₜ‖;  Δ by Adam from 0: Σₜ Σ_rows ⟨τₜ, τₜ − Σⱼ λⱼ (τⱼ + Δ)⟩² → min, with gradients "
        "(I − U Uᵀ) g;  mₜ = the largest |τₜ|;  θ = θ0 + λ Σₜ λₜ mₜ (τₜ + Δ)"
    )
    card_template = (
        "of each matrix the task vectors, scaled to norm {norm:g}, plus one change found in {iterations} "
        "steps of Adam (learning rate {learning_rate:g}) off the shared subspace (1 of {subspace} "
        "directions); of each task the largest {density:g} of the entries; other tensors are the base's"
    )
    source = (
        "Wei et al. 2025, Modeling multi-task model merging as adaptive projective gradient descent "
        "(arXiv 2501.01230)"
    )
    deviations = (
        "fusion_bench's program takes only the weight matrices of CLIP's encoder; here all matrices are "
        "taken, embeddings too, unless excluded; directions that a task of low rank does not have are not in "
        "the shared subspace; a task of zeros gives NaN there"
    )
    statistics_over = "model"
    scaling = 1.0
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the number of entries and what to trim at; return the sum of the moved task vectors."""
        # float32 cannot hold every count beyond 2²⁴
        entries = int((yield Sums(lambda block: torch.tensor([[_chosen(block).shape[1]]]).double())).item())
        threshold = torch.zeros(tasks, 1)
        if entries and self.density < 1:
            rank = last_dropped(entries, self.density)
            threshold = yield OrderStatistics(lambda block: _chosen(block).abs(), (rank,))

        def merge(block: Block) -> Tensor:
            if not is_matrix(block):
                return torch.zeros_like(block.base)
            norms = torch.linalg.vector_norm(block.task_vectors, dim=(1, 2), dtype=torch.float64)
            scales = torch.where(norms > _NOTHING, self.norm / norms, 0).to(block.base.dtype)
            change = self._change(block.task_vectors, scales)
            merged = torch.zeros_like(block.base)
            for scale, row, least in zip(scales, block.task_vectors, threshold, strict=True):
                merged += (row + change).mul_(row.abs() >= least.to(row.device)).mul_(scale)
            return merged

        return merge

    def _change(self, task_vectors: Tensor, scales: Tensor) -> Tensor:
        """Return Δ of one matrix: [m, n]."""
        start, whole = torch.zeros_like(task_vectors[0]), float(scales.sum())
        basis = self._shared(task_vectors).to(start.dtype)
        added = torch.einsum("k,kmn->mn", scales, task_vectors)
        target = torch.stack([(row * (row - added)).sum(dim=1) for row in task_vectors])

        def gradient(change: Tensor) -> Tensor:
            errors = target - whole * torch.einsum("kmn,mn->km", task_vectors, change)
            slope = torch.einsum("km,kmn->mn", errors * (-2 * whole), task_vectors)
            return slope - basis @ (basis.T @ slope)

        return adam(start, gradient, self.iterations, self.learning_rate)

    def _shared(self, task_vectors: Tensor) -> Tensor:
        """Return the leading directions of all tasks' leading left singular vectors: [m, directions]."""
        tasks, *shape = task_vectors.shape
        leading = [decompose(task_vector, min(shape) // tasks)[0] for task_vector in task_vectors]
        together = torch.cat(leading, dim=1)
        return decompose(together, min(shape) // self.subspace)[0] if together.numel() else together


def _chosen(block: Block) -> Tensor:
    """Return the task vectors of a matrix, [n_tasks, m n], and nothing of another tensor, [n_tasks, 0]."""
    rows = block.task_vectors.reshape(block.tasks, block.base.numel())
    return rows if is_matrix(block) else rows[:, :0]
