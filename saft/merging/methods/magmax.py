"""MagMax: the largest entry of each coordinate."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saft.merging.method import Elementwise, Steps
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["MagMax"]


@METHODS.register("magmax")
@dataclass(frozen=True, kw_only=True)
class MagMax(Elementwise):
    """Takes, at each coordinate, the entry of the task whose magnitude is the largest.

    Where two magnitudes are equal the later task counts, as in the authors' code. The paper trains the tasks
    one after the other, each from the model of the one before, and takes every task vector from the
    first base; models that were trained apart can be merged as well.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(MagMax(), torch.tensor([[1.0, -2.0, 3.0], [-4.0, 1.0, -3.0]]))
        tensor([-4., -2., -3.])
    """

    formula = "τ = τₜ with t = argmaxⱼ |τⱼ|, at each coordinate;  θ = θ0 + λ τ"
    card_template = "at each coordinate the entry of the task whose magnitude is the largest"
    source = "Marczak et al. 2024, MagMax: model merging for continual learning (arXiv 2407.06322)"
    scaling = 0.5
    scaling_grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the choice of the largest; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            greatest, least = block.task_vectors.amax(dim=0), block.task_vectors.amin(dim=0)
            longer = greatest + least  # positive where the greatest has the larger magnitude
            merged = greatest.maximum(-least).copysign_(longer)
            if longer.count_nonzero() < len(longer):  # seldom; booleans take longer than all else
                equal = (longer == 0).logical_and_(greatest != 0)
                merged[equal] = _last(block.task_vectors[:, equal])
            return merged

        return merge


def _last(task_vectors: Tensor) -> Tensor:
    """Return, at each coordinate, the last of the entries whose magnitude is the largest: [n]."""
    last = len(task_vectors) - 1 - task_vectors.abs().flip(0).argmax(dim=0, keepdim=True)
    return task_vectors.gather(0, last).squeeze(0)
