"""SCE under mergekit's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saft.merging.method import OrderStatistics, Steps, Sums, Trimming, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["MergekitSce"]

_NO_WEIGHT = 1e-6  # sums of weights below it are that


@METHODS.register("mergekit_sce")
@dataclass(frozen=True, kw_only=True)
class MergekitSce(Trimming):
    """Selects the entries that vary most over the tasks, weighs the tasks by their squares, erases signs.

    Of a tensor the density · m entries are kept whose variance over the tasks is greatest, m being those
    whose variance is not zero. A task's weight is its share of the mean squares of what is kept; equal shares
    where these add up to less than 1e-6. Then what has not the sign of the sum over the tasks is dropped,
    plus for zero, and the rest divided by the sum of its weights, or 1e-6.

    Of equal variances all are kept.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(MergekitSce(), torch.tensor([[2.0, 1.0, 1.0], [1.0, -2.0, 1.0]]))
        tensor([ 1.5000, -2.0000,  1.0000])
    """

    density: float = parameter(
        1.0,
        "fraction of the entries with a variance that is kept, mergekit's `select_topk`; 0 gives the base",
        at_least=0,
        at_most=1,
    )
    granularity: Literal["model", "tensor"] = parameter(
        "tensor",
        "what variances and squares are taken over: each tensor, as in mergekit, or the whole model",
        choices=("model", "tensor"),
    )

    formula = "θ = θ0 + λ Σₜ wₜ mₜ τ̂ₜ / Σₜ wₜ mₜ;  wₜ = ‖τ̂ₜ‖² / Σₛ ‖τ̂ₛ‖²;  mₜ = [sign τ̂ₜ = sign Σₛ τ̂ₛ]"
    card_template = (
        "mergekit's SCE: of each tensor the {density:g} of the entries that vary most over the tasks, "
        "weighted by the tasks' mean squares, where the sign is that of the sum"
    )
    source = "Wan et al. 2024, FuseChat (arXiv 2408.07990), as mergekit 0.1.5 has it"
    deviations = "computed in float32 whatever the dtype of the files; of equal variances all are kept"
    scaling = 1.0
    scaling_grid = (1.0,)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the least variance that is kept, and for the squares of what is; return the merge."""
        low = torch.zeros(1, 1)
        if self.density < 1:
            varying = yield Sums(lambda block: _variance(block).ne(0).to(block.base.dtype))
            kept = int(torch.tensor(int(varying)) * self.density)  # multiplied in float32, as there
            low = yield OrderStatistics(_variance, (count - max(kept, 1),))
            low = low if kept else torch.full_like(low, torch.inf)

        def keep(block: Block) -> Tensor:
            return block.task_vectors.flatten(1) * (_variance(block) >= low)

        squares = (yield Sums(lambda block: keep(block).square())) / count
        whole = squares.sum()
        weights = squares / whole if whole >= _NO_WEIGHT else torch.full_like(squares, 1 / tasks)

        def merge(block: Block) -> Tensor:
            rows = keep(block)
            sign = total(rows).ge(0).mul(2).sub(1)
            weighted = rows.sign().eq(sign) * weights.to(rows)
            return total(rows * weighted).div_(total(weighted).clamp_(min=_NO_WEIGHT))

        return merge


def _variance(block: Block) -> Tensor:
    """Return the variance of each entry over the tasks, [1, n], whatever else is in the block."""
    rows = block.task_vectors.flatten(1)
    mean = total(rows).div_(len(rows))
    return total((rows - mean).square_()).div_(len(rows)).unsqueeze(0)
