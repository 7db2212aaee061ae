"""EMR: elect a unified vector, mask it for each task, rescale it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Sums, parameter, total
from saft.merging.methods import METHODS
from saft.merging.per_task import MaskedMethod, PerTaskParts, SplitSteps, pack
from saft.merging.stream.block import Block

__all__ = ["Emr"]


@METHODS.register("emr")
@dataclass(frozen=True, kw_only=True)
class Emr(MaskedMethod):
    """Elects one vector for all tasks, and keeps for each task a bit per entry and one factor.

    Elect: the sign of the sum of the task vectors, where a sum of zero counts as negative, and the largest
    magnitude among the tasks that have this sign. Mask: a task takes the entries where it has this sign.
    Rescale: so that what a task takes is as large as its own task vector. The authors' program, and so the
    published figures, compares the means of each tensor, added over the tensors (`code`): a bias weighs as
    much as a matrix. The paper compares the sums over the whole model (`paper`).

    The authors' code gives NaN for a task that takes nothing, such as a task vector of zeros; here its factor
    is one, and its model is the base.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Emr(), torch.tensor([[4.0, 1.0, -2.0], [2.0, 3.0, 1.0]]))
        tensor([[ 3.1111,  2.3333, -1.5556],
                [ 3.4286,  2.5714,  0.0000]])
    """

    variant: str = parameter(
        "code",
        "what a rescaler compares: the mean magnitudes of each tensor, added over the tensors, as the "
        "authors' program does, or the magnitudes of the whole model, as the paper says",
        choices=("code", "paper"),
    )

    formula = (
        "γ = sign(Σₜ τₜ);  τ = γ max of the |τₜ| with sign γ;  mₜ = [τₜ γ > 0];  "
        "rₜ = Σ mean |τₜ| / Σ mean |mₜ τ| over the tensors;  θₜ = θ0 + λ rₜ mₜ τ"
    )
    card_template = (
        "for each task: the elected vector, of which the task takes the entries that have its own sign, "
        "rescaled to the size of its task vector (variant {variant})"
    )
    source = "Huang et al. 2024, EMR-Merging: tuning-free high-performance model merging (arXiv 2405.17461)"
    deviations = (
        "nothing in the variant code (the authors' program, from which the published figures come) where "
        "that gives numbers; sums are taken in float64"
    )
    statistics_over = "model"
    scaling = 1.0
    scaling_grid = (0.8, 0.9, 1.0, 1.1, 1.2)

    def split(self, tasks: int, count: int) -> SplitSteps:
        """Ask for the magnitudes that the rescalers compare; return the election and the masks."""

        def compared(block: Block) -> Tensor:
            vector, masks = _elected(block.task_vectors)
            magnitudes = torch.cat([block.task_vectors.abs(), masks * vector.abs()])
            if self.variant == "paper":
                return magnitudes
            size = block.base.numel() if block.size is None else block.size
            return magnitudes.mul_(1 / max(size, 1))  # their sums over a tensor are its means

        own, taken = (yield Sums(compared)).squeeze(1).chunk(2)
        rescalers = torch.where(taken > 0, own / taken, 1)

        def keep(block: Block) -> PerTaskParts:
            vector, masks = _elected(block.task_vectors)
            return PerTaskParts(vector, {"mask": pack(masks)}, rescalers)

        return keep


def _elected(task_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elected vector, [n], and what each task takes of it, bool [n_tasks, n]."""
    sign = torch.where(total(task_vectors) > 0, 1.0, -1.0).to(task_vectors.dtype)
    agreeing = task_vectors * sign
    masks = agreeing > 0
    largest = agreeing[0].clamp(min=0)
    for other in agreeing[1:]:
        torch.maximum(largest, other, out=largest)
    return largest.mul_(sign), masks
