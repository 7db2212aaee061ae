"""Task arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saft.merging.method import Elementwise, Steps, for_each_task, parameter, total
from saft.merging.methods import METHODS

__all__ = ["TaskArithmetic"]


@METHODS.register("task_arithmetic")
@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Elementwise):
    """Adds the sum of the task vectors to the base, scaled by one coefficient.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(TaskArithmetic(), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))
        tensor([4., 0.])
    """

    weights: tuple[float, ...] = parameter((1.0,), "of the models, one for each or one for all")

    formula = "θ = θ0 + λ Σₜ wₜ τₜ"
    card_template = "the sum of the task vectors (weights {weights})"
    source = "Ilharco et al. 2023, Editing models with task arithmetic (arXiv 2212.04089)"
    deviations = (
        "the default λ of 0.4 is what the TIES paper uses for task arithmetic without validation data; "
        "with many tasks λ should be nearer to 1/K; "
        "the paper weighs all tasks alike"
    )
    scaling = 0.4
    scaling_grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the sum; no statistic is needed."""
        yield from ()
        if self.weights == (1.0,):
            return lambda block: total(block.task_vectors)
        weights = for_each_task(self.weights, tasks, torch.float64)
        return lambda block: total(block.task_vectors * weights.to(block.base.dtype))
