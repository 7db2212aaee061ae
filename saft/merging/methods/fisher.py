"""Fisher merging: an average in which each task counts where its data say that it matters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Steps, Sums, for_each_task, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Fisher"]


@METHODS.register("fisher")
@dataclass(frozen=True, kw_only=True)
class Fisher(Elementwise):
    """Averages the fine-tuned weights, each weighted by the diagonal of its task's Fisher information.

    The information of a weight is the mean over examples of E[(∂ log p(y | x) / ∂θ)²], with y drawn from the
    model's own prediction: no label is read. It is computed exactly, one example and one class after the
    other, at the fine-tuned weights and in evaluation mode (`paper`): a backward pass for each. So does the
    authors' program, from which the paper's figures come. MergeLM squares the gradient of Σ √p log p summed
    over a batch and all classes (`mergelm`); that is much faster, but holds products of different examples
    and classes too, and depends on the batch size. fusion_bench does the same, so its figures are of
    `mergelm`.

    Information below the floor counts as the floor (`paper`), or the floor is added (`mergelm`): a weight
    that no task's data touch is averaged. Normalized, each task's information is divided by its norm over
    the whole model first, so that a task whose predictions are certain counts as much as another; a task
    without any information counts only with the floor.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Fisher(), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))       # no information
        tensor([2., 0.])
    """

    variant: str = parameter(
        "paper",
        "how the information is estimated, and how the floor is applied: as in the paper and its authors' "
        "program, or as in MergeLM",
        choices=("paper", "mergelm"),
    )
    normalize: bool = parameter(True, "divide each task's information by its norm over the whole model")
    floor: float = parameter(  # which float32 has to hold
        1e-6, "information that every weight has at least", at_least=1e-30
    )
    weights: tuple[float, ...] = parameter(
        (1.0,), "of the models, one for each or one for all: the information is multiplied", at_least=0
    )

    formula = "θ = Σₜ wₜ Fₜ θₜ / Σₜ wₜ Fₜ;  Fₜ = mean over x of E[(∂ log p(y | x, θₜ) / ∂θ)²]"
    card_template = (
        "the average of the fine-tuned weights, weighted by the diagonal Fisher information of each task's "
        "model (estimate {variant}, normalized: {normalize}, at least {floor:g}; weights {weights})"
    )
    source = "Matena and Raffel 2022, Merging models with Fisher-weighted averaging (arXiv 2111.09832)"
    deviations = (
        "variant paper: the authors apply the floor only to the first model, so that it wins where no model "
        "has any information; here to every model, so that the average comes out. Variant mergelm: nothing"
    )
    statistics_over = "model"
    scaling = 1.0
    scaling_grid = (1.0,)
    needs = "base, models, examples of each task"
    calibration = "fisher"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the norms of the information; return the weighted average."""
        factors = for_each_task(self.weights, tasks, torch.float64)
        if self.normalize:
            squares = yield Sums(lambda block: _information(block).double().square_())
            norms = squares.sqrt().add_(self.floor if self.variant == "mergelm" else 0)
            factors = factors / torch.where(norms > 0, norms, 1)
        factors = factors / factors.max()

        def merge(block: Block) -> Tensor:
            information = _information(block)
            information = (
                information + self.floor if self.variant == "mergelm" else information.clamp(min=self.floor)
            )
            shares = information.mul_(factors.to(information))
            share = total(shares)
            return total(shares.mul_(block.task_vectors)).div_(share.add_(share == 0))

        return merge


def _information(block: Block) -> Tensor:
    """Return what was collected for a block, [n_tasks, n]; zeros where the data do not touch the tensor."""
    information = block.statistics.get("fisher")
    return torch.zeros_like(block.task_vectors) if information is None else information
