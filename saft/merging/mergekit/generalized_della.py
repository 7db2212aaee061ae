"""DELLA under mergekit's conventions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.mergekit.generalized_arithmetic import GeneralizedArithmetic
from saft.merging.method import Steps, Tensorwise, for_each_task, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["MergekitDella"]

_NO_NORM = 1e-7


@METHODS.register("mergekit_della")
@dataclass(frozen=True, kw_only=True)
class MergekitDella(GeneralizedArithmetic, Tensorwise):
    """Merges task vectors as mergekit's della and della_linear do.

    In each row of a tensor the probability to be kept rises with the rank of the magnitude, from
    density − epsilon to density + epsilon; equal magnitudes are ranked by their place, and an entry that is
    alone in its row has the density. A vector is one row; of a tensor with more than two dimensions a row
    runs along the second. With `rescale` what is kept of a tensor is scaled until the sum of its magnitudes
    is what it was. The rest is as in `mergekit`. A density of 1 drops nothing.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(MergekitDella(densities=(0.5,)), torch.arange(1.0, 7.0).view(1, 6), seed=3)
        tensor([ 0.0000,  0.0000,  0.0000,  9.3333, 11.6667,  0.0000])
    """

    densities: tuple[float, ...] = parameter(
        (1.0,), "mean probability that an entry is kept, for each model or for all", above=0, at_most=1
    )
    epsilons: tuple[float, ...] = parameter(
        (0.15,), "how far the probability goes up and down from the density", at_least=0, below=0.5
    )
    elect: bool = parameter(True, "drop what has not the sign of the weighted sum")
    normalize: bool = parameter(True, "divide by the sum of the weights")

    formula = (
        "θ = θ0 + λ Σₜ wₜ τ̂ₜ mₜ / (Σₜ wₜ mₜ or 1);  τ̂ₜ = bₜ τₜ ‖τₜ‖₁ / ‖bₜ τₜ‖₁;  "
        "bₜ ~ Bernoulli(density − ε + 2 ε rank / (n − 1))"
    )
    card_template = (
        "mergekit's DELLA: each entry of the task vectors is kept with a probability about {densities} that "
        "rises with its rank in its row by ± {epsilons} (rescaled: {rescale}), times weights {weights}, sign "
        "elected: {elect}, normalized: {normalize}, times {coefficient:g}"
    )
    deviations = (
        "in the random numbers, which depend only on the seed; mergekit stops where a row has one "
        "entry; computed in float32"
    )
    random = True

    def problems(self, tasks: int) -> list[str]:
        """Return what is wrong with merging this number of tasks."""
        problems = super().problems(tasks)
        if not problems:
            pairs = zip(
                *(for_each_task(x, tasks).tolist() for x in (self.densities, self.epsilons)), strict=True
            )
            for (density,), (epsilon,) in pairs:
                if density < 1 and not epsilon < density < 1 - epsilon:
                    problems.append(
                        f"epsilons: {density:g} ± {epsilon:g} is not a probability; density − epsilon must "
                        "be above 0 and density + epsilon below 1: lessen epsilon"
                    )
        return problems

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the merge; no statistic is needed."""
        yield from ()
        densities, epsilons = (for_each_task(numbers, tasks) for numbers in (self.densities, self.epsilons))

        def merge(block: Block) -> Tensor:
            uniform, kept = block.uniform(), []
            for task, vector in enumerate(block.task_vectors):
                chosen = vector
                if densities[task] < 1:
                    chances = _ranked(vector.abs()).mul_(2).sub_(1).mul_(epsilons[task]).add_(densities[task])
                    chosen = uniform[task].lt(chances).mul(vector)
                    if self.rescale:
                        chosen *= _ratio(vector, chosen)
                kept.append(chosen)
            return self.mixed(torch.stack(kept))

        return merge


def _ranked(magnitudes: Tensor) -> Tensor:
    """Return the rank of each entry in its row, from 0 for the least to 1; 1/2 for one that is alone."""
    rows = magnitudes if magnitudes.dim() > 1 else magnitudes.reshape(1, -1)
    length = rows.shape[1]
    if length < 2:
        return torch.full_like(magnitudes, 0.5)
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks.to(magnitudes.dtype).div_(length - 1).view(magnitudes.shape)


def _ratio(vector: Tensor, kept: Tensor) -> float:
    before, after = (float(entries.abs().sum(dtype=torch.float64)) for entries in (vector, kept))
    return before / after if min(before, after) >= _NO_NORM else 1.0
