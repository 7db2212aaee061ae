"""KnOTS: TIES in a basis that the tasks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saft.merging.algebra.svd import decompose, is_matrix
from saft.merging.method import Steps, Sums, Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["Knots"]


@METHODS.register("knots")
@dataclass(frozen=True, kw_only=True)
class Knots(Tensorwise):
    """Writes each matrix of all tasks in one basis of directions, and merges the coordinates by TIES.

    The basis is that of the left singular vectors of the tasks' matrices side by side: it aligns tasks that
    were trained by LoRA, each in directions of its own. The trim is over the coordinates of all matrices.
    With everything kept and no signs elected this would be the mean of the task vectors. A task of zeros
    counts nowhere. Embeddings are matrices too. All other tensors (biases, norms, convolutions) stay those of
    the base, as in the authors' code, which takes the matrices that LoRA changes.

    The decomposition of a matrix is made again in each of the passes, so that the memory holds one at a time.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> vectors = torch.tensor([[[2.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> merge_task_vectors(Knots(density=1.0), vectors)
        tensor([[2.0000, 1.0000],
                [2.0000, 1.0000]])
    """

    density: float = parameter(
        0.2, "fraction of each task's coordinates that are kept, the largest", above=0, at_most=1
    )
    combine: str = parameter(
        "mean", "what becomes of the coordinates that agree with the sign", choices=("mean", "sum", "max")
    )
    smallest: float = parameter(
        1e-5,
        "a direction is left out whose singular value is at most this share of the matrix's largest",
        at_least=0,
        below=1,
    )

    formula = "[τ1 … τK] = U Σ [V1 … VK]ᵀ;  τ = U · TIES(Σ V1ᵀ, …, Σ VKᵀ);  θ = θ0 + λ τ"
    card_template = (
        "in a basis common to all tasks, of each task the largest {density:g} of the coordinates; per "
        "coordinate a sign, and the {combine} of those that have it; other tensors are those of the base"
    )
    source = "Stoica et al. 2024, Model merging with SVD to tie the KnOTS (arXiv 2410.19735)"
    deviations = (
        "nothing in KnOTS-TIES for adapters, whose singular values are either large or rounding: the authors "
        "leave out what is at most 1e-5, whatever the largest is. Their max loses the sign; KnOTS with DARE "
        "is not offered"
    )
    statistics_over = "model"
    scaling = 0.6
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the number of coordinates, then for what TIES asks for; return the merge of a tensor."""

        def aligned(block: Block) -> Block:
            return self._aligned(block)[1]

        # float32 cannot hold every count beyond 2²⁴
        entries = yield Sums(lambda block: torch.tensor([[aligned(block).base.numel()]]).double())
        if not entries.item():
            return lambda block: torch.zeros_like(block.base)
        ties = Ties(density=self.density, combine=self.combine)
        merge = yield from _over(ties.steps(tasks, int(entries.item())), aligned)

        def rebuild(block: Block) -> Tensor:
            basis, coordinates = self._aligned(block)
            if basis.numel() == 0:
                return torch.zeros_like(block.base)
            return basis @ merge(coordinates).view(basis.shape[1], -1)

        return rebuild

    def _aligned(self, block: Block) -> tuple[Tensor, Block]:
        """Return U, [m, r], and the block of the coordinates Σ Vₜᵀ, [n_tasks, r n]; empty if no matrix."""
        basis = block.base.new_zeros(0, 0)
        rows = block.base.new_zeros(block.tasks, 0)
        if is_matrix(block):
            left, values, _ = decompose(torch.cat(list(block.task_vectors), dim=1))
            basis = left[:, values > values[:1] * self.smallest].to(block.base.dtype)
            rows = (basis.T @ block.task_vectors).flatten(1)
        return basis, replace(block, task_vectors=rows, base=torch.zeros_like(rows[0]))


def _over(steps: Steps, change: Callable[[Block], Block]) -> Steps:
    """Return the steps of a method whose statistics are taken over changed blocks."""

    def changed(statistic: Any) -> Any:
        return replace(statistic, values=lambda block: statistic.values(change(block)))

    try:
        statistic = changed(next(steps))
        while True:
            statistic = changed(steps.send((yield statistic)))
    except StopIteration as end:
        function: Callable[[Block], Tensor] = end.value
        return function
