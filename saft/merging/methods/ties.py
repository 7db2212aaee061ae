"""TIES: trim, elect sign, merge what agrees."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import (
    OrderStatistics,
    Statistic,
    Steps,
    Sums,
    Trimming,
    for_each_task,
    last_dropped,
    parameter,
    total,
)
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Ties"]


@METHODS.register("ties")
@dataclass(frozen=True, kw_only=True)
class Ties(Trimming):
    """Keeps the largest entries of each task, elects a sign per coordinate, merges what agrees with it.

    Trim: with k = N − int(N · density), an entry stays when its magnitude is at least the k-th smallest of
    its task; so int(N · density) + 1 stay, and all that are tied with the last. Density 1 keeps everything,
    and at least one entry is kept whatever the density. Elect: the sign of the sum of what is kept; where
    that is zero, the sign that most coordinates have; where that is zero too, minus. Merge: over the tasks
    whose entry agrees. Weights, which the authors have not, multiply what is kept before the election; the
    mean divides by the sum of the weights of those that agree.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Ties(density=0.5), torch.tensor([[4.0, 1.0, -2.0, 0.5], [2.0, 3.0, 1.0, 0.0]]))
        tensor([ 3.,  2., -2.,  0.])
    """

    density: float = parameter(
        0.2, "fraction of the entries of each task vector that are kept, the largest", above=0, at_most=1
    )
    elect: str = parameter(
        "mass",
        "whose sign counts: the sum of the kept entries, the entry with the largest share of its task's "
        "squared norm, or the sum of the signed shares",
        choices=("mass", "normfrac", "normmass"),
    )
    combine: str = parameter(
        "mean", "what becomes of the entries that agree with the sign", choices=("mean", "sum", "max")
    )
    weights: tuple[float, ...] = parameter(
        (1.0,), "of the models, one for each or one for all: what is kept is multiplied before the election"
    )

    formula = (
        "τ̂ₜ = τₜ where |τₜ| ≥ the k-th smallest |τₜ|, else 0;  γ = sign(Σₜ τ̂ₜ);  "
        "τ = mean of the τ̂ₜ with sign γ;  θ = θ0 + λ τ"
    )
    card_template = (
        "of each task vector the largest {density:g} of the entries (thresholds per {granularity}; weights "
        "{weights}); per coordinate a sign (by {elect}), and the {combine} of the entries that have it"
    )
    source = "Yadav et al. 2023, TIES-Merging: resolving interference when merging models (arXiv 2306.01708)"
    deviations = (
        "nothing at density < 1 and without weights; the authors' code takes percent and stops at 100; "
        "fusion_bench combines by sum, mergekit and peft trim each tensor"
    )
    scaling = 1.0
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the thresholds, then for the sign of the majority; return the merge of a block."""
        return (yield from self.steps_for(lambda block: block.task_vectors, tasks, count))

    def steps_for(
        self, vectors: Callable[[Block], Tensor], tasks: int, count: int, merger: str = "ties"
    ) -> Steps:
        """Do the same with what a method keeps of the task vectors.

        Args:
            vectors: what is kept of a block, [n_tasks, n]; for `sum` in memory of its own.
            tasks: number of task vectors.
            count: number of coordinates that the statistics are taken over.
            merger: `ties`, or `sum` for only the sum, by weights.

        Yields:
            The statistics.

        Returns:
            The merge of a block, of its shape.
        """
        weights = for_each_task(self.weights, tasks, torch.float64)
        are_one = bool((weights == 1).all())
        if merger == "sum":

            def add(block: Block) -> Tensor:
                rows = vectors(block)
                weighted = rows if are_one else rows.mul_(weights.to(rows.dtype))
                return total(weighted).view(block.base.shape)

            return add
        agreed = yield from self.agreed(vectors, tasks, count)
        # Weights of both signs can cancel, but for their rounding.
        cancelled = float(weights.abs().sum()) * tasks if min(self.weights) < 0 else 0.0

        def merge(block: Block) -> Tensor:
            kept, sign = agreed(block)
            if self.combine == "max":
                merged = kept.abs_().amax(dim=0) * sign
            else:
                mean = self.combine == "mean"
                merged = _mean_of_agreeing(kept, weights, cancelled) if mean else total(kept)
            return merged.view(block.base.shape)

        return merge

    def agreed(
        self, vectors: Callable[[Block], Tensor], tasks: int, count: int
    ) -> Generator[Statistic, Tensor, Callable[[Block], tuple[Tensor, Tensor]]]:
        """Trim and elect without merging: return a function of a block to what agrees, and the sign.

        Args:
            vectors: function of a block to what is trimmed, [n_tasks, n].
            tasks: number of task vectors.
            count: number of coordinates that the trim is over.

        Returns:
            A function of a block to the entries, [n_tasks, n], 0 where they do not agree, and the sign, [n].
        """
        weights, threshold = for_each_task(self.weights, tasks, torch.float64), torch.zeros(tasks, 1)
        if self.density < 1:
            rank = last_dropped(count, self.density)
            threshold = yield OrderStatistics(lambda block: vectors(block).abs(), (rank,))

        def trim(block: Block) -> Tensor:
            kept = vectors(block)
            return kept.abs().ge_(threshold).mul_(kept).mul_(weights.to(kept.dtype))

        vote: Callable[[Tensor], Tensor] = total
        if self.elect != "mass":
            squares = yield Sums(lambda block: trim(block).double().square_())
            vote = _by_share(squares.sqrt(), largest=self.elect == "normfrac")
        votes = yield Sums(lambda block: vote(trim(block)).sign_().unsqueeze(0))
        majority = votes.sign().squeeze()

        def elected(block: Block) -> tuple[Tensor, Tensor]:
            trimmed = trim(block)
            sign = vote(trimmed).sign_()
            sign += (1 - sign.abs()) * majority.to(sign.dtype)
            return _agreeing(trimmed, sign), sign

        return elected


def _agreeing(rows: Tensor, sign: Tensor) -> Tensor:
    """Return the entries of `rows`, [n_tasks, n], that have the `sign`, [n], and zero elsewhere.

    A sign of zero counts as minus.
    """
    direction = sign.clamp(min=0).mul_(2).sub_(1)  # 1 or -1
    return (rows * direction).clamp_(min=0).mul_(direction)


def _mean_of_agreeing(kept: Tensor, weights: Tensor, cancelled: float) -> Tensor:
    """Return the sum of the weighted entries over the sum of the weights of those that are not zero.

    Args:
        kept: entries times weights, [n_tasks, n]; it is changed.
        weights: [n_tasks, 1].
        cancelled: a sum of weights that is at most the rounding of this is zero.

    Returns:
        [n]; only the sum where the weights add up to zero.
    """
    merged = total(kept)
    share = total(kept.ne_(0).mul_(weights.to(kept.dtype)))
    return merged.div_(share.add_(share.abs() <= cancelled * torch.finfo(share.dtype).eps))


def _by_share(norms: Tensor, largest: bool) -> Callable[[Tensor], Tensor]:
    """Return the vote by each task's share of its squared norm: of the largest share, or the signed sum."""
    norms = norms.clamp(min=torch.finfo(torch.float32).tiny)

    def vote(trimmed: Tensor) -> Tensor:
        scaled = trimmed / norms.to(trimmed.dtype)
        share = scaled * scaled.abs()
        return (
            share.gather(0, share.abs().argmax(dim=0, keepdim=True)).squeeze(0) if largest else total(share)
        )

    return vote
