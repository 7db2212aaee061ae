"""TALL masks: one vector for all tasks, and which of its entries each task can use."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saft.merging.method import for_each_task, parameter, total
from saft.merging.methods import METHODS
from saft.merging.per_task import MaskedMethod, PerTaskParts, SplitSteps, pack
from saft.merging.stream.block import Block

__all__ = ["TallMasks"]


@METHODS.register("tall_masks")
@dataclass(frozen=True, kw_only=True)
class TallMasks(MaskedMethod):
    """Keeps the sum of the task vectors, and for each task a bit per entry: whether the entry helps the task.

    An entry helps a task when the task's own entry is larger than the threshold times what the other tasks
    add to it. So a larger threshold keeps fewer entries. The authors choose the threshold of each task on
    validation data, from 0.2, 0.3, 0.4, 0.5 and 0.6. With one task everything that was moved is kept.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(TallMasks(), torch.tensor([[4.0, 1.0, -2.0], [2.0, -3.0, 1.0]]))
        tensor([[ 6.,  0., -1.],
                [ 6., -2., -1.]])
    """

    thresholds: tuple[float, ...] = parameter(
        (0.4,), "λₜ for each task, in the order of the models, or one for all", at_least=0
    )

    formula = "τ = Σₜ τₜ;  mₜ = [|τₜ| > λₜ |(θ0 + τ) − θₜ|];  θₜ = θ0 + λ mₜ τ"
    card_template = (
        "for each task: the sum of the task vectors, of which the task takes the entries where its own is "
        "larger than {thresholds} times the rest of the sum"
    )
    source = (
        "Wang et al. 2024, Localizing task information for improved model merging and compression "
        "(arXiv 2405.07813)"
    )
    deviations = (
        "nothing, but that θₜ is computed from θ0 and τₜ, and that only the sum is masked, which TIES can "
        "replace in the authors' code; fusion_bench compares other quantities"
    )
    scaling = 1.0
    scaling_grid = (0.8, 0.9, 1.0, 1.1, 1.2)

    def split(self, tasks: int, count: int) -> SplitSteps:
        """Return the sum and the masks; no statistic is needed."""
        yield from ()
        thresholds = for_each_task(self.thresholds, tasks, torch.float64)

        def keep(block: Block) -> PerTaskParts:
            vector = total(block.task_vectors)
            # The others' part of the sum as the authors take it, rounded as it is after the base is added.
            others = (block.base + vector) - (block.base + block.task_vectors)
            masks = block.task_vectors.abs() > others.abs().mul_(thresholds.to(others.dtype))
            return PerTaskParts(vector, {"mask": pack(masks)}, torch.ones(tasks, dtype=torch.float64))

        return keep
