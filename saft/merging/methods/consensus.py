"""Consensus: what helps only one task, or none, is left out of the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Steps, Trimming, for_each_task, parameter, total
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["Consensus"]


@METHODS.register("consensus")
@dataclass(frozen=True, kw_only=True)
class Consensus(Trimming):
    """Keeps those entries of a merged task vector that help at least two of the tasks, or another number.

    An entry helps a task when the task's own entry is larger than its threshold times what the other tasks
    add to it: these are the TALL masks. `at_least` 2 drops what helps only one task and what helps none, 1
    the latter, 0 nothing; where there are fewer models, an entry has to help them all. The authors choose
    each task's threshold on validation data, from 0.2, 0.3, 0.4, 0.5 and 0.6. What is masked is the sum of
    the task vectors, or, with `merger: ties`, what TIES makes of them with `trim` as its density and the sum
    of what agrees. A task of zeros is helped by nothing.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Consensus(), torch.tensor([[4.0, -1.0, 2.0], [2.0, 3.0, -0.5]]))
        tensor([6., 0., 0.])
    """

    thresholds: tuple[float, ...] = parameter(
        (0.4,), "λₜ for each task, in the order of the models, or one for all", at_least=0
    )
    at_least: int = parameter(2, "number of tasks that an entry has to help (the paper's k)", at_least=0)
    merger: str = parameter("sum", "what makes the vector that is masked", choices=("sum", "ties"))
    trim: float = parameter(
        0.2, "fraction of each task vector that TIES keeps, with `merger: ties`", above=0, at_most=1
    )

    formula = "τ = Σₜ τₜ;  mₜ = [|τₜ| > λₜ |(θ0 + τ) − θₜ|];  m = [Σₜ mₜ ≥ k];  θ = θ0 + λ m τ"
    card_template = (
        "the task vectors merged by {merger}, of which those are kept that help {at_least} or more tasks "
        "(thresholds {thresholds})"
    )
    source = (
        "Wang et al. 2024, Localizing task information for improved model merging and compression "
        "(arXiv 2405.07813)"
    )
    deviations = (
        "nothing, but that θₜ is computed from θ0 and τₜ; fusion_bench compares other quantities; without "
        "validation data one threshold for all tasks is a guess"
    )
    scaling = 0.3
    scaling_grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for what TIES asks for, if it is wanted; return the masked merge of a block."""
        merged: Callable[[Block], Tensor] = _sum
        if self.merger == "ties":
            merged = yield from Ties(density=self.trim, combine="sum").steps(tasks, count)
        thresholds = for_each_task(self.thresholds, tasks, torch.float64)

        def merge(block: Block) -> Tensor:
            vector = merged(block)
            distances = block.base + block.task_vectors
            torch.sub(block.base + vector, distances, out=distances).abs_()
            distances.mul_(thresholds.to(distances.dtype))
            helped = total(block.task_vectors.abs().gt_(distances))
            return vector.mul_(helped.ge_(min(self.at_least, tasks)))

        return merge


def _sum(block: Block) -> Tensor:
    return total(block.task_vectors)
