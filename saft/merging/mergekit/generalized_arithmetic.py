"""Task arithmetic, TIES, breadcrumbs and DARE under mergekit's conventions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saft.merging.method import (
    Method,
    OrderStatistics,
    Statistic,
    Steps,
    Sums,
    Trimming,
    for_each_task,
    magnitudes,
    parameter,
    total,
)
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["GeneralizedArithmetic", "Mergekit", "MergekitDare", "rescaling"]

_NO_NORM = 1e-7  # L1 norms below it rescale nothing
_NO_WEIGHT = 1e-8  # sums of weights below it divide nothing


@dataclass(frozen=True, kw_only=True)
class GeneralizedArithmetic(Method):
    """What mergekit's methods of task vectors share: how what is kept of the task vectors is added up."""

    weights: tuple[float, ...] = parameter((1.0,), "of the models, one for each or one for all")
    elect: bool = parameter(False, "drop what has not the sign of the weighted sum")
    normalize: bool = parameter(False, "divide by the sum of the weights")
    rescale: bool = parameter(True, "give what is kept the L1 norm that the task vector had")
    coefficient: float = parameter(1.0, "λ, mergekit's `lambda`", at_least=0)

    source = "Goddard et al. 2024, Arcee's mergekit (arXiv 2403.13257), version 0.1.5"
    scaling = 1.0
    scaling_grid = (1.0,)

    def mixed(self, kept: Tensor) -> Tensor:
        """Return λ Σₜ wₜ kₜ mₜ / (Σₜ wₜ mₜ or 1).

        With `elect` m is 1 where w k has the sign of its sum over the tasks (plus for zero), else 0; without,
        it is 1. It is divided with `normalize`, and where the divisor is not zero.

        Args:
            kept: what is kept of the task vectors, [n_tasks, ...]; it is changed.
        """
        weights = for_each_task(self.weights, len(kept), kept.dtype).to(kept.device)
        weights = weights.view(-1, *[1] * (kept.dim() - 1))
        weighted = kept.mul_(weights)
        divisor = weights.sum(dim=0)
        if self.elect:
            sign = total(weighted).ge_(0).mul_(2).sub_(1)
            agree = weighted.sign().eq_(sign)
            weighted.mul_(agree)
            divisor = total(agree.mul_(weights))
            divisor = torch.where(divisor == 0, 1, divisor)
        else:
            divisor = torch.where(divisor.abs() < _NO_WEIGHT, 1, divisor)
        merged = total(weighted)
        return (merged.div_(divisor) if self.normalize else merged).mul_(self.coefficient)


@METHODS.register("mergekit")
@dataclass(frozen=True, kw_only=True)
class Mergekit(GeneralizedArithmetic, Trimming):
    """Merges task vectors as mergekit's task_arithmetic, ties, breadcrumbs and breadcrumbs_ties do.

    Of each task vector and tensor `magnitude` keeps the int(density · n) largest entries, and `outliers`
    drops the int(gamma · n) largest and keeps as many of the next. Then the weights are multiplied in; with
    `elect` the sign of their sum is elected, plus where it is zero, and what has another sign is dropped;
    with `normalize` the sum is divided by the sum of the weights of what is left. Where that is zero it is
    not divided.

    At least one entry is kept, and all that equal the smallest that is kept. `saft merge` takes a file with
    `merge_method:` and fills these parameters in.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> ties = Mergekit(sparsify="magnitude", densities=(0.5,), elect=True, normalize=True)
        >>> merge_task_vectors(ties, torch.tensor([[1.0, 0.1, 3.0, 0.2], [-3.0, 0.1, 1.0, 0.2]]))
        tensor([-3.,  0.,  2.,  0.])
    """

    sparsify: str = parameter(
        "none", "what is kept of each task vector", choices=("none", "magnitude", "outliers")
    )
    densities: tuple[float, ...] = parameter(
        (1.0,), "fraction of entries that is kept, for each model or for all", above=0, at_most=1
    )
    gammas: tuple[float, ...] = parameter(
        (0.01,), "fraction of the largest entries that `outliers` drops", at_least=0, below=1
    )
    rescale: bool = parameter(False, "give what is kept the L1 norm that the task vector had")
    granularity: Literal["model", "tensor"] = parameter(
        "tensor",
        "what a fraction or a norm is taken over: each tensor, as in mergekit, or the whole model",
        choices=("model", "tensor"),
    )

    formula = (
        "θ = θ0 + λ Σₜ wₜ τ̂ₜ mₜ / (Σₜ wₜ mₜ or 1);  τ̂ₜ = what is kept of τₜ;  mₜ = [sign of the sum] or 1"
    )
    card_template = (
        "mergekit's task arithmetic: of the task vectors is kept ({sparsify}: densities {densities}, gammas "
        "{gammas}, rescaled: {rescale}), times weights {weights}, sign elected: {elect}, normalized: "
        "{normalize}, times {coefficient:g}"
    )
    deviations = (
        "computed in float32 whatever the dtype of the files; keeps one entry where density · n is less than "
        "one, where mergekit's breadcrumbs drops the whole tensor; of equal magnitudes all are kept"
    )

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the smallest and the largest magnitude that is kept, and for norms; return the merge."""
        low, high = torch.zeros(tasks, 1), torch.full((tasks, 1), torch.inf)
        if self.sparsify != "none":
            bounds = self._ranks(tasks, count)
            ranks = tuple(sorted({rank for pair in bounds for rank in pair}))
            values = yield OrderStatistics(magnitudes, ranks)
            places = torch.tensor([[ranks.index(rank) for rank in pair] for pair in bounds])
            low, high = values.gather(1, places).chunk(2, dim=1)

        def keep(block: Block) -> Tensor:
            size = magnitudes(block)
            return size.ge(low).logical_and_(size.le(high)).mul(block.task_vectors)

        factors = (yield from rescaling(keep)) if self.rescale else torch.ones(tasks, 1)
        return lambda block: self.mixed(keep(block).mul_(factors.to(block.base.dtype)))

    def _ranks(self, tasks: int, count: int) -> list[tuple[int, int]]:
        """Return the ranks in ascending order of magnitude of the first and the last entry that is kept."""
        result = []
        fractions = (
            for_each_task(x, tasks, torch.float64).flatten().tolist() for x in (self.densities, self.gammas)
        )
        for density, gamma in zip(*fractions, strict=True):
            kept = max(int(density * count), 1)
            above = 0
            if self.sparsify == "outliers" and density < 1:
                above = min(int(gamma * count), count - kept)
            result.append((count - kept - above, count - above - 1))
        return result


@METHODS.register("mergekit_dare")
@dataclass(frozen=True, kw_only=True)
class MergekitDare(GeneralizedArithmetic, Trimming):
    """Merges task vectors as mergekit's dare_linear and dare_ties do.

    Each entry is kept with the probability `density`. With `rescale` what is kept of a tensor is scaled
    until the sum of its magnitudes is what it was; so it is not divided by the density, as in the paper. The
    rest is as in `mergekit`: no magnitude is trimmed.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(MergekitDare(densities=(0.5,)), torch.ones(1, 6), seed=1)
        tensor([0., 3., 0., 3., 0., 0.])
    """

    densities: tuple[float, ...] = parameter(
        (1.0,), "probability that an entry is kept, for each model or for all", above=0, at_most=1
    )
    granularity: Literal["model", "tensor"] = parameter(
        "tensor",
        "what a norm is taken over: each tensor, as in mergekit, or the whole model",
        choices=("model", "tensor"),
    )

    formula = (
        "θ = θ0 + λ Σₜ wₜ τ̂ₜ mₜ / (Σₜ wₜ mₜ or 1);  τ̂ₜ = bₜ τₜ ‖τₜ‖₁ / ‖bₜ τₜ‖₁;  bₜ ~ Bernoulli(density)"
    )
    card_template = (
        "mergekit's DARE: each entry of the task vectors is kept with probability {densities} (rescaled: "
        "{rescale}), times weights {weights}, sign elected: {elect}, normalized: {normalize}, times "
        "{coefficient:g}"
    )
    deviations = "in the random numbers, which depend only on the seed; computed in float32"
    random = True

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the norms; return the merge."""
        densities = for_each_task(self.densities, tasks)

        def keep(block: Block) -> Tensor:
            return block.uniform().lt(densities).mul(block.task_vectors)

        factors = (yield from rescaling(keep)) if self.rescale else torch.ones(tasks, 1)
        return lambda block: self.mixed(keep(block).mul_(factors.to(block.base.dtype)))


def rescaling(keep: Callable[[Block], Tensor]) -> Generator[Statistic, Tensor, Tensor]:
    """Ask for the L1 norms of the task vectors, before and after `keep`, and return their ratios.

    Returns:
        float64 [n_tasks, 1]; 1 where either norm is next to nothing.
    """
    norms = yield Sums(lambda block: torch.cat([magnitudes(block), keep(block).abs_()]))
    before, after = norms.chunk(2)
    return torch.where((before < _NO_NORM) | (after < _NO_NORM), 1, before / after.clamp(min=_NO_NORM))
