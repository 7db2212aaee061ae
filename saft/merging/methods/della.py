"""DELLA: drop by magnitude and chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Scope, Steps, Tensorwise, in_rows, parameter
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["Della"]


@METHODS.register("della")
@dataclass(frozen=True, kw_only=True)
class Della(Tensorwise):
    """Drops entries at random, the small ones more often, rescales the rest, and merges it as TIES does.

    The n entries of a row are ranked by magnitude, from r = 0 for the smallest, the first of equal ones
    before the next; the probability that an entry is kept grows with its rank, and is `density` on average:

        pᵢ = density − ε + 2 ε rᵢ / (n − 1)

    `within` says what is ranked: each row of a matrix, or each tensor. A vector is one row; of a tensor with
    more than two dimensions a row is all that belongs to one index of the first. A row of one entry is kept
    with probability `density`. Where density ± ε would leave [0, 1], ε is made smaller until it does not; so
    density 1 keeps everything, and with density ≤ ε the smallest entry of each row is never kept.

    With `rescale: probability` what is kept is divided by its pᵢ, so that its expectation stays; with `norm`
    all of a tensor is scaled until the sum of its magnitudes is what it was; with `none` it stays. Then a
    sign is elected for each coordinate, as in TIES, and the mean or the sum (`combine`) of what has it is
    taken (`merger: ties`); or all is added up (`merger: sum`).

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> task_vectors = torch.tensor([[4.0, 1.0, -2.0], [2.0, -3.0, 1.0]])
        >>> merge_task_vectors(Della(density=1.0), task_vectors)
        tensor([ 3., -3., -2.])
    """

    density: float = parameter(
        0.5, "mean probability that an entry is kept (one minus the paper's p)", above=0, at_most=1
    )
    epsilon: float = parameter(
        0.15,
        "how far the probability goes below and above that (half the authors' window)",
        at_least=0,
        below=1,
    )
    within: str = parameter("row", "what an entry's rank is taken in", choices=("row", "tensor"))
    rescale: str = parameter(
        "probability",
        "what makes up for the dropped entries: division by each probability, or the sum of the magnitudes",
        choices=("probability", "norm", "none"),
    )
    merger: str = parameter("ties", "what merges the rest", choices=("ties", "sum"))
    combine: str = parameter(
        "mean", "what `merger: ties` makes of the entries that agree with the sign", choices=("mean", "sum")
    )
    weights: tuple[float, ...] = parameter((1.0,), "of the models, one for each or one for all")

    formula = (
        "mᵢ ~ Bernoulli(pᵢ), pᵢ = density − ε + 2 ε rᵢ/(n − 1);  τ̂ₜ = mₜ τₜ / pₜ;  γ = sign(Σₜ τ̂ₜ);  "
        "τ = mean of the τ̂ₜ with sign γ;  θ = θ0 + λ τ"
    )
    card_template = (
        "of each task vector each entry kept with a probability of {density:g} ± {epsilon:g} that grows with "
        "its rank within the {within}, and rescaled ({rescale}); merged by {merger} (weights {weights}; for "
        "ties: {combine})"
    )
    source = "Deep et al. 2024, DELLA-Merging: magnitude-based sampling (arXiv 2406.11617)"
    deviations = (
        "the window and the division by each probability are those of the authors' code, where the paper "
        "has n for n − 1; where a sum is exactly zero the sign is that of TIES, in the code it is plus; "
        "mergekit rescales by the norm; both rank convolutions along their second dimension, and fail on "
        "rows of one entry"
    )
    scaling = 1.0
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
    random = True

    @property
    def statistics_over(self) -> Scope:
        """The whole model, where TIES elects the sign of entries whose sum is zero; else nothing is asked."""
        return "model" if self.merger == "ties" else "none"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for what TIES asks for, if it is wanted; return the merge of a tensor."""
        ties = Ties(density=1.0, combine=self.combine, weights=self.weights)
        return (yield from ties.steps_for(self._drop, tasks, count, self.merger))

    def _drop(self, block: Block) -> Tensor:
        """Return what is kept of the task vectors, rescaled: [n_tasks, n]."""
        rows = in_rows(block.task_vectors, self.within)
        kept_with = self._probabilities(rows)
        kept = in_rows(block.uniform(), self.within).lt_(kept_with).mul_(rows)
        if self.rescale == "probability":
            kept.div_(kept_with.clamp_(min=torch.finfo(torch.float32).tiny))
        kept = kept.flatten(1)
        if self.rescale == "norm":
            before = rows.flatten(1).abs().sum(dim=1, keepdim=True, dtype=torch.float64)
            after = kept.abs().sum(dim=1, keepdim=True, dtype=torch.float64)
            # float32 cannot hold the factor of a task that is nearly zero
            kept = kept.double().mul_(before / (after + (after == 0))).to(kept.dtype)
        return kept

    def _probabilities(self, rows: Tensor) -> Tensor:
        """Return the probability that each entry of [n_tasks, rows, n] is kept."""
        length = rows.shape[-1]
        epsilon = min(self.epsilon, self.density, 1 - self.density)
        if length < 2 or epsilon == 0:
            return torch.full_like(rows, self.density)
        order = rows.abs().argsort(dim=-1, stable=True)
        ends = (self.density - epsilon, self.density + epsilon)
        by_rank = torch.linspace(*ends, length, dtype=rows.dtype, device=rows.device)
        return torch.empty_like(rows).scatter_(-1, order, by_rank.expand_as(rows))
