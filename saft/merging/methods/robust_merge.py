"""RobustMerge: the two matrices of LoRA adapters merged each by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.inputs.factors import Factors
from saft.merging.method import Steps, Tensorwise, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["RobustMerge"]


@METHODS.register("robust_merge")
@dataclass(frozen=True, kw_only=True)
class RobustMerge(Tensorwise):
    """Prunes both matrices of every LoRA adapter, and merges the A's and the B's each by themselves.

    Of each matrix the largest magnitudes are kept (with ties, and at least one entry). Direction j of task t
    is row j of Aₜ and column j of Bₜ; its scale makes up for what the pruning of A took from it,

        sₜⱼ = Σᵢ |Aₜⱼᵢ| / Σᵢ |prune(Aₜ)ⱼᵢ|

    and is raised to the (1 − distinct)-quantile of the task's scales where it is below.

    The merged change of a tensor is B A with the A and B of the formula, where each Bₜ already has the scale
    α / r of its adapter. It is not a sum of the tasks' changes: it holds products of one task's B with
    another's A as well. A single adapter is pruned and multiplied by the square of `coefficient`.

    A direction of which nothing is left, or in which A is zero, has the scale zero before the raising; where
    the scales of all tasks are zero, the column of B is zero. Whatever no adapter changes by a product
    (modules_to_save, biases) is the mean of the models. Convolutions are merged as matrices. With the rank
    of the adapters as `adapter_rank` the result is an adapter again: of all of B A, in other factors of it.

    Example:
        >>> one = Factors(torch.tensor([[1.0, 0.1]]), torch.tensor([[1.0], [0.1]]))
        >>> two = Factors(torch.tensor([[0.2, 3.0]]), torch.tensor([[1.0], [0.2]]))
        >>> block = Block(torch.zeros(2, 2, 2), torch.zeros(2, 2), factors=(one, two))
        >>> RobustMerge(density=0.5, coefficient=1.0).merged(block.factors).down
        tensor([[1.2000, 3.1000]])
    """

    density: float = parameter(
        0.2, "fraction of the entries of each matrix that are kept, the largest", above=0, at_most=1
    )
    distinct: float = parameter(
        0.2,
        "share of an adapter's directions, those with the largest scales, whose scales stay as they are; the "
        "others get the least of these",
        above=0,
        at_most=1,
    )
    coefficient: float = parameter(
        2.0, "factor of each of the two merged matrices, so that the change has its square", above=0
    )

    formula = (
        "A = c Σₜ prune(Aₜ);  B[:, j] = c Σₜ sₜⱼ prune(Bₜ)[:, j] / Σₜ sₜⱼ;  sₜⱼ = |Aₜⱼ|₁ / |prune(Aₜ)ⱼ|₁;  "
        "θ = θ0 + λ B A;  else θ = (1/K) Σₜ θₜ"
    )
    card_template = (
        "of the adapters' matrices the largest {density:g} of the entries: {coefficient:g} times the mean of "
        "the B's, weighted by what was pruned of each row of A (a share of {distinct:g} of the rows has "
        "weights of its own), times {coefficient:g} times the sum of the A's; of other tensors the mean of "
        "the models"
    )
    source = (
        "Zeng et al. 2025, RobustMerge: Parameter-efficient model merging for MLLMs with direction "
        "robustness (arXiv 2502.17159; in its first version CoPA-Merging)"
    )
    deviations = (
        "nothing where all adapters have one α / r and no row of A is pruned as a whole, which gives NaN in "
        "the authors' program; it leaves α / r aside, and reads A before B by the order in the file"
    )
    scaling = 1.0
    scaling_grid = (1.0,)
    needs = "base, LoRA adapters of one rank"
    needs_adapters = True

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the merge of a tensor; no statistic of the whole stream is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            if block.factors:
                return self.merged(block.factors).change(block.base.shape)
            return total(block.task_vectors) / tasks

        return merge

    def merged(self, factors: tuple[Factors, ...]) -> Factors:
        """Return the merged A and B of one tensor, with a scale of one."""
        down = torch.stack([task.down for task in factors])
        up = torch.stack([task.up * task.scale for task in factors])
        left = self._pruned(down)
        weights = self._scales(down, left).unsqueeze(1)  # [n_tasks, 1, rank]
        shared = total(weights)
        mean = total(weights * self._pruned(up)) / shared.where(shared > 0, 1)
        return Factors(
            self.coefficient * total(left), self.coefficient * mean, transposed=factors[0].transposed
        )

    def _pruned(self, matrices: Tensor) -> Tensor:
        """Return [n_tasks, rows, columns] without the small magnitudes of each task."""
        magnitudes = matrices.abs().flatten(1)
        dropped = int(magnitudes.shape[1] * (1 - self.density))
        # The authors' rule: the last that would be dropped is the threshold, and stays.
        threshold = magnitudes.kthvalue(max(dropped, 1), dim=1).values.view(-1, 1, 1)
        return matrices.where(matrices.abs() >= threshold, 0)

    def _scales(self, down: Tensor, left: Tensor) -> Tensor:
        """Return the scale of each direction, [n_tasks, rank]."""
        before, after = (each.abs().sum(dim=2) for each in (down, left))
        scales = torch.where(after > 0, before / after.where(after > 0, 1), 0)
        rank = scales.shape[1]
        least = scales.sort(dim=1).values[:, min(int(rank * (1 - self.distinct)), rank - 1)]
        return scales.maximum(least.unsqueeze(1))
