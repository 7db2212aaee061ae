"""DARE: drop and rescale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Steps, Sums, Trimming, magnitudes, parameter
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["Dare"]


@METHODS.register("dare")
@dataclass(frozen=True, kw_only=True)
class Dare(Trimming):
    """Drops entries of each task vector at random, scales up the rest, and merges by a sum or by TIES.

    With `rescale: probability` an entry that is kept is divided by `density`, so that its expectation stays;
    with `norm` all that is kept is scaled until the sum of its magnitudes is what it was; with `none` it
    stays. What is dropped depends only on the seed of the merge, the tensor's name, the task's place and the
    entry's: a word of BLAKE3's output decides (see `Block.uniform`).

    `merger: ties` trims the rescaled vectors again, as the authors do, to the fraction `trim` of all entries,
    the dropped ones included: where `density` is smaller than `trim` it changes nothing, and `trim: 1` leaves
    it out. Then it elects a sign and takes the mean or the sum (`combine`) of what has it. Where everything
    of a task is dropped the task counts nowhere; density 1 drops nothing.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Dare(density=0.5), torch.ones(2, 6), seed=1)
        tensor([2., 2., 2., 4., 0., 0.])
    """

    density: float = parameter(
        0.5, "probability that an entry is kept (one minus the paper's drop rate)", above=0, at_most=1
    )
    rescale: str = parameter(
        "probability",
        "what makes up for the dropped entries: division by the density, or the sum of the magnitudes",
        choices=("probability", "norm", "none"),
    )
    merger: str = parameter("sum", "what merges the rest", choices=("sum", "ties"))
    trim: float = parameter(
        0.2, "fraction of each task vector that TIES keeps, the largest", above=0, at_most=1
    )
    combine: str = parameter(
        "mean", "what TIES makes of the entries that agree with the sign", choices=("mean", "sum", "max")
    )
    weights: tuple[float, ...] = parameter((1.0,), "of the models, one for each or one for all")

    formula = "mₜ ~ Bernoulli(density);  τ̂ₜ = mₜ τₜ / density;  θ = θ0 + λ Σₜ τ̂ₜ, or TIES of the τ̂ₜ"
    card_template = (
        "of each task vector each entry kept with probability {density:g} and rescaled ({rescale}); merged "
        "by {merger} (weights {weights}; for ties: trim {trim:g}, {combine}; statistics per {granularity})"
    )
    source = "Yu et al. 2024, Language models are Super Mario (arXiv 2311.03099)"
    deviations = (
        "nothing with rescale probability and trim 0.2, but for the random numbers; mergekit rescales each "
        "tensor by its norm and, like peft, does not trim; the authors search density and λ"
    )
    scaling = 0.3
    scaling_grid = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    random = True

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the norms if they rescale, and for what TIES asks for; return the merge of a block."""

        def drop(block: Block) -> Tensor:
            return block.kept(self.density).mul_(block.task_vectors)

        factor = torch.ones(tasks, 1, dtype=torch.float64)
        if self.rescale == "norm":
            norms = yield Sums(lambda block: torch.cat([magnitudes(block), drop(block).abs_()]))
            before, after = norms.chunk(2)
            factor = before / (after + (after == 0))

        def kept(block: Block) -> Tensor:
            entries = drop(block)
            if self.rescale == "norm":  # float32 cannot hold the factor of a task that is nearly zero
                return entries.double().mul_(factor).to(entries.dtype)
            return entries.div_(self.density) if self.rescale == "probability" else entries

        ties = Ties(density=self.trim, combine=self.combine, weights=self.weights)
        return (yield from ties.steps_for(kept, tasks, count, self.merger))
