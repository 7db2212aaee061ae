"""The weighted average of models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Steps, for_each_task, parameter, total
from saft.merging.methods import METHODS
from saft.merging.parameters import not_to_be_normalized
from saft.merging.stream.block import Block

__all__ = ["Linear"]


@METHODS.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(Elementwise):
    """Takes the weighted average of the fine-tuned weights.

    Without `normalize` the weights are taken as they are, and the result is Σₜ wₜ θₜ: a sum of the weights
    other than one makes the whole model larger or smaller.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Linear(weights=(3.0, 1.0)), torch.tensor([[1.0, 2.0], [5.0, -2.0]]))
        tensor([2., 1.])
    """

    weights: tuple[float, ...] = parameter(
        (1.0,), "one for each model in their order, or one for all; they may be negative"
    )
    normalize: bool = parameter(True, "divide by the sum of the weights")

    formula = "θ = Σₜ wₜ θₜ / Σₜ wₜ"
    card_template = (
        "the weighted average of the fine-tuned weights (weights {weights}, normalized: {normalize})"
    )
    source = "Wortsman et al. 2022, Model soups (arXiv 2203.05482)"
    deviations = "the paper weighs all models alike; weights and normalize are as in mergekit"
    scaling = 1.0
    scaling_grid = (1.0,)

    def problems(self, tasks: int) -> list[str]:
        """Return what is wrong with merging this number of tasks."""
        return super().problems(tasks) + (not_to_be_normalized(self.weights) if self.normalize else [])

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the weighted average; no statistic is needed."""
        yield from ()
        weights = for_each_task(self.weights, tasks, torch.float64)
        whole = float(weights.sum())

        def merge(block: Block) -> Tensor:
            merged = total(block.task_vectors * weights.to(block.base.dtype))
            return merged.div_(whole) if self.normalize else merged.add_(block.base, alpha=whole - 1)

        return merge
