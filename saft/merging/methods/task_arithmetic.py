"""Task arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from saft.merging.method import Elementwise, Steps, total
from saft.merging.methods import METHODS

__all__ = ["TaskArithmetic"]


@METHODS.register("task_arithmetic")
@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Elementwise):
    """Adds the sum of the task vectors to the base, scaled by one coefficient.

    Example:
        >>> import torch
        >>> from saft.merging.engine import merge_task_vectors
        >>> merge_task_vectors(TaskArithmetic(), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))
        tensor([4., 0.])
    """

    formula = "θ = θ0 + λ Σₜ τₜ"
    words = "the sum of the task vectors"
    source = "Ilharco et al. 2023, Editing models with task arithmetic (arXiv 2212.04089)"
    differs = (
        "the default λ of 0.4 is what the TIES paper uses for task arithmetic without validation data; "
        "with many tasks λ wants to be nearer to 1/K"
    )
    scaling = 0.4
    scaling_grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the sum; no statistic is needed."""
        yield from ()
        return lambda block: total(block.task_vectors)
