"""Averaging of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from saft.merging.method import Elementwise, Steps, total
from saft.merging.methods import METHODS

__all__ = ["Average"]


@METHODS.register("average")
@dataclass(frozen=True, kw_only=True)
class Average(Elementwise):
    """Takes the mean of the fine-tuned weights.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Average(), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))
        tensor([2., 0.])
    """

    formula = "θ = θ0 + (1/K) Σₜ τₜ  =  (1/K) Σₜ θₜ"
    card_template = "the mean of the fine-tuned weights"
    source = "Wortsman et al. 2022, Model soups (arXiv 2203.05482)"
    scaling = 1.0
    scaling_grid = (1.0,)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the mean; no statistic is needed."""
        yield from ()
        return lambda block: total(block.task_vectors) / tasks
