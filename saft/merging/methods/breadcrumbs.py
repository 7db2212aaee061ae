"""Breadcrumbs: neither the largest entries nor the small ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saft.merging.method import Scope, Steps, Tensorwise, in_rows, parameter
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["Breadcrumbs"]


@METHODS.register("breadcrumbs")
@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Tensorwise):
    """Drops the largest entries of each task as outliers and the small ones as noise, and adds up the rest.

    Of n magnitudes the largest int(n · outliers) are dropped and the next int(n · density) are kept, at least
    one; where both are more than n, fewer outliers are dropped. What is tied with the least or the greatest
    that is kept is kept too. `within` says what is ranked: each row of a matrix, as in the authors' code, or
    each tensor, as in the paper and in mergekit. A vector is one row; of a tensor with more than two
    dimensions a row is all that belongs to one index of the first.

    `merger: ties` elects a sign for each coordinate from the sum of what is kept, as TIES does, and takes the
    sum or the mean (`combine`) of what has it.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> task_vectors = torch.tensor([[9.0, -3.0, 2.0, 1.0], [1.0, 4.0, -5.0, 2.0]])
        >>> merge_task_vectors(Breadcrumbs(density=0.5, outliers=0.25), task_vectors)
        tensor([0., 1., 2., 2.])
    """

    density: float = parameter(
        0.15, "fraction of the entries that are kept (the authors' beta)", above=0, at_most=1
    )
    outliers: float = parameter(
        0.006, "fraction of the entries that are dropped as too large (gamma)", at_least=0, below=1
    )
    within: str = parameter("row", "what an entry's rank is taken in", choices=("row", "tensor"))
    merger: str = parameter("sum", "what merges the rest", choices=("sum", "ties"))
    combine: str = parameter(
        "sum", "what `merger: ties` makes of the entries that agree with the sign", choices=("sum", "mean")
    )
    weights: tuple[float, ...] = parameter((1.0,), "of the models, one for each or one for all")

    formula = "τ̂ₜ = τₜ where its rank is above the noise and below the outliers, else 0;  θ = θ0 + λ Σₜ τ̂ₜ"
    card_template = (
        "of each task vector, in each {within}, the largest {outliers:g} of the entries dropped and the next "
        "{density:g} kept; merged by {merger} (weights {weights}; for ties: {combine})"
    )
    source = "Davari and Belilovsky 2024, Model Breadcrumbs (arXiv 2312.06795)"
    deviations = (
        "the authors' code ranks along the last dimension, which is another one for convolutions, and keeps "
        "nothing of a row where density times its length is below one; mergekit keeps nothing of a tensor "
        "where outliers times its size is below one, which is a mistake"
    )
    scaling = 0.2
    scaling_grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    @property
    def statistics_over(self) -> Scope:
        """The whole model, where TIES elects the sign of entries whose sum is zero; else nothing is asked."""
        return "model" if self.merger == "ties" else "none"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for what TIES asks for, if it is wanted; return the merge of a tensor."""
        ties = Ties(density=1.0, combine=self.combine, weights=self.weights)
        return (yield from ties.steps_for(self._mask, tasks, count, self.merger))

    def _mask(self, block: Block) -> Tensor:
        """Return the task vectors without noise and outliers: [n_tasks, n]."""
        rows = in_rows(block.task_vectors, self.within)
        length = rows.shape[-1]
        if rows.numel() == 0:
            return rows.flatten(1)
        kept = max(int(length * self.density), 1)
        highest = length - min(int(length * self.outliers), length - kept)  # ranks from 1, as kthvalue counts
        sizes = rows.abs()
        low = sizes.kthvalue(highest - kept + 1, dim=-1, keepdim=True).values
        high = sizes.kthvalue(highest, dim=-1, keepdim=True).values
        inside = sizes.ge(low).logical_and_(sizes <= high)
        return inside.mul(rows).flatten(1)
