"""PCB: parameter competition balancing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saft.merging.method import (
    Extremes,
    OrderStatistics,
    Statistic,
    Steps,
    Sums,
    Trimming,
    magnitudes,
    parameter,
    total,
)
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Pcb"]

# The share of the smallest, and of the largest magnitudes that is clipped, by variant of the authors' code.
_CLIPPED = {"vision": 0.01, "es": 0.01, "nlp": 0.01, "root": 0.0001}

_GREATEST = 80.0
"""An exponent whose exp is still in float32 once it is multiplied by a sum over thousands of tasks."""


@METHODS.register("pcb")
@dataclass(frozen=True, kw_only=True)
class Pcb(Trimming):
    """Weighs each entry by its magnitude within its task and its agreement with the other tasks.

    The authors published four programs that differ, and a paper that differs from all of them; `variant`
    names which is meant. In the programs, with A the magnitudes clipped at their c- and (1 − c)-quantiles
    (c = 0.0001 in `root`, else 0.01) and norm(x) = (x − min)/(max − min) over one task,

        βₜ = exp(K norm(Aₜ)²) · interₜ,   sₜ = norm(max(βₜ, its (1 − density)-quantile))
        vision:     interₜ = tanh(τₜ Σⱼ sign(τⱼ) norm(Aⱼ))
        es:         interₜ = Σⱼ tanh(nₜ nⱼ),  n = sign(τ) norm(A)
        nlp, root:  interₜ = tanh(τₜ Σⱼ τⱼ)

    and τ = Σₜ sign(τₜ) Aₜ sₜ / Σₜ sₜ. In the paper βₜ = softmax(K norm(τₜ²)) · Σⱼ softmax(norm(τₜ τⱼ)), the
    entries below the quantile are zeroed, sₜ = norm(βₜ), and τ = Σₜ τₜ sₜ / Σₜ sₜ.

    The authors' code gives NaN where a norm has no range. Here such a norm is zero; and where the quantile is
    the best score itself, the entries that have this score weigh one if it is positive, so that at least one
    entry counts. A task vector of zeros counts nowhere. Where no task counts, the base stays as it is.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> task_vectors = torch.tensor([[0.5, -0.25, 0.0, 0.875], [-0.25, -0.5, 0.75, 0.125]])
        >>> merge_task_vectors(Pcb(density=0.5), task_vectors)
        tensor([ 0.0000, -0.5000,  0.5000,  0.5000])
    """

    density: float = parameter(
        0.05,
        "fraction of the entries of each task that get a weight, by score (the paper's ratio)",
        above=0,
        at_most=1,
    )
    variant: str = parameter(
        "vision",
        "which of the authors' programs is meant, or the formula of the paper",
        choices=("vision", "nlp", "root", "es", "paper"),
    )

    formula = (
        "βₜ = exp(K norm(|τₜ|)²) · tanh(τₜ Σⱼ sign(τⱼ) norm(|τⱼ|));  "
        "sₜ = norm(max(βₜ, its (1 − density)-quantile));  τ = Σₜ τₜ sₜ / Σₜ sₜ;  θ = θ0 + λ τ"
    )
    card_template = (
        "the mean of the task vectors, each entry weighted by its magnitude and its agreement with the other "
        "tasks; of each task the best {density:g} of the entries (statistics per {granularity}) count; "
        "variant {variant}"
    )
    source = "Du et al. 2024, Parameter competition balancing for model merging (arXiv 2410.02396)"
    deviations = (
        "nothing in the variants vision, nlp, root and es (the authors' programs) where those give numbers; "
        "the published figures come from them and not from the formula of the paper (variant paper)"
    )
    scaling = 1.2
    scaling_grid = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the bounds of the magnitudes, then for the score to beat; return the merge of a block."""
        if self.variant == "paper":
            return (yield from self._paper_steps(tasks, count))
        clipped = _CLIPPED[self.variant]
        ranks = (int(count * clipped), int(count * (1 - clipped) - 1))
        low, high = (yield OrderStatistics(magnitudes, ranks)).chunk(2, dim=1)

        def clip(block: Block) -> Tensor:  # as `clamp`, which takes three times as long with bounds a row
            magnitude = block.task_vectors.abs()
            torch.maximum(magnitude, low, out=magnitude)
            return torch.minimum(magnitude, high, out=magnitude)

        def score(block: Block, signs: Tensor, magnitude: Tensor) -> Tensor:
            _norm(magnitude, low, high)  # it and the signs are used up
            signed = signs.mul_(magnitude)
            intra = _exp(magnitude.square_(), tasks)
            return self._competition(intra, block.task_vectors, signed)

        def scores(block: Block) -> Tensor:
            return score(block, block.task_vectors.sign(), clip(block))

        cut = min(int(count * (1 - self.density)), count - 1)
        least, greatest = (yield OrderStatistics(scores, (cut, count - 1))).chunk(2, dim=1)
        best_alone = (least == greatest) & (greatest > 0)
        any_best_alone = bool(best_alone.any())

        def merge(block: Block) -> Tensor:
            signs, magnitude = block.task_vectors.sign(), clip(block)
            competing = signs * magnitude
            weights = score(block, signs, magnitude)
            del signs, magnitude
            alone = weights.ge(greatest).mul(best_alone) if any_best_alone else None
            _norm(torch.maximum(weights, least, out=weights), least, greatest)
            if alone is not None:
                weights += alone
            return _weighted_mean(competing, weights)

        return merge

    def _competition(self, intra: Tensor, task_vectors: Tensor, signed: Tensor) -> Tensor:
        """Return the scores; `intra`, exp(K norm(A)²), and `signed`, sign(τ) norm(A), are used up."""
        if self.variant == "es":
            inter = torch.zeros_like(task_vectors)
            for other in signed:
                inter += _tanh(signed * other)
            return intra.mul_(inter)
        others = total(signed if self.variant == "vision" else task_vectors)
        return intra.mul_(_tanh(torch.mul(task_vectors, others, out=signed)))

    def _paper_steps(self, tasks: int, count: int) -> Steps:
        def squares(block: Block) -> Tensor:
            return block.task_vectors.square()

        def products(block: Block) -> Tensor:  # [tasks * tasks, n], symmetric in the two tasks
            return (block.task_vectors.unsqueeze(0) * block.task_vectors.unsqueeze(1)).flatten(0, 1)

        intra = yield from _softmax(squares, tasks, count)
        inter = yield from _softmax(products, 1, count)

        def scores(block: Block) -> Tensor:
            return intra(block).mul_(total(inter(block).view(tasks, tasks, -1)))

        cut = min(int(count * (1 - self.density)), count - 1)
        least, to_beat, greatest = (yield OrderStatistics(scores, (0, cut, count - 1))).chunk(3, dim=1)
        least = least * (least >= to_beat)  # with an entry masked, the least masked score is zero

        def merge(block: Block) -> Tensor:
            score = scores(block)
            masked = score.ge(to_beat).to(score.dtype).mul_(score)
            return _weighted_mean(block.task_vectors.clone(), _norm(masked, least, greatest))

        return merge


def _tanh(values: Tensor) -> Tensor:
    """Return the tanh of values, which are used up.

    On a CPU that is not Intel's torch's, which is MKL's, takes as long as all else together. Near zero, where
    nearly all products of changes of weights lie, tanh is x (1 − x²/3): the next term, 2x⁵/15, is a seventh
    of what is rounded there. Each of the steps rounds once: those that multiply and add at once do so only in
    some places of a block.
    """
    if not values.is_cpu or _is_intel():
        return values.tanh_()
    flat = values.reshape(-1)
    squares = flat.square()
    far = torch.from_numpy(np.flatnonzero(squares.numpy() > torch.finfo(values.dtype).eps ** 0.5))
    exact = flat[far].tanh_()
    flat.mul_(squares.mul_(-1 / 3).add_(1))[far] = exact
    return flat.view(values.shape)


@functools.cache
def _is_intel() -> bool:
    with suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8")
    return False


def _norm(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Make values (values − low) / (high − low), and zero in a row without a range; return them."""
    span = high - low
    return values.sub_(low).div_(span + (span == 0))


def _exp(values: Tensor, temperature: float) -> Tensor:
    """Return exp(temperature · values), of values in [0, 1] that are used up, times what keeps it in float32.

    Scores and softmax are the same whatever they are multiplied by.
    """
    values.mul_(temperature)
    if temperature > _GREATEST:
        values.sub_(temperature - _GREATEST)
    return values.exp_()


def _softmax(
    values: Callable[[Block], Tensor], temperature: float, count: int
) -> Generator[Statistic, Tensor, Callable[[Block], Tensor]]:
    """Return `count` times the softmax over the stream of temperature · norm(values)."""
    low, high = (yield Extremes(values)).chunk(2, dim=1)

    def exponential(block: Block) -> Tensor:
        return _exp(_norm(values(block), low, high), temperature)

    scale = count / (yield Sums(exponential))

    def scaled(block: Block) -> Tensor:
        shares = exponential(block)
        return shares.mul_(scale.to(shares.dtype))

    return scaled


def _weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Return Σₜ rowsₜ weightsₜ / Σₜ weightsₜ, [n]; the rows are changed."""
    return total(rows.mul_(weights)).div_(total(weights).clamp_(min=1e-12))
