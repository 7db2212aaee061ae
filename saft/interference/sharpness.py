"""Sharpness of the loss around the weights: in the worst direction, and on average over random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saft.config import Count, NonNegative, checked
from saft.interference.loss import Batch, LossMeasure, Neighbourhood, length_of
from saft.interference.quantity import IN_LOSS, MEASURES, Passes, Quantity

__all__ = ["AverageSharpness", "Sharpness", "WorstCaseSharpness", "average_sharpness", "worst_case_sharpness"]


@MEASURES.register("sharpness")
@checked
@dataclass(frozen=True)
class Sharpness(LossMeasure):
    """Largest increase of the loss within a ball around the weights; see `worst_case_sharpness`.

    Args:
        rho: radius, in weight space, or in the rescaled space if `adaptive`; at least 0.
        adaptive: measure in the metric of ASAM.
        n_steps: ascent steps, at least 1.

    Example:
        >>> Sharpness(rho=0.05).quantities["sharpness"].meaning
        'largest increase of the loss within rho = 0.05 of the weights'
    """

    rho: NonNegative = 0.02
    adaptive: bool = False
    n_steps: Count = 1

    standard = True

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The loss at the weights, and its largest increase around them."""
        ball = (
            f"rho = {self.rho:g} of the weights{', each in units of its own size' if self.adaptive else ''}"
        )
        return {
            "loss": Quantity(
                "loss of the fine-tuned model on the examples of the sharpness",
                IN_LOSS,
                per="task",
                definition="L(w)",
            ),
            "sharpness": Quantity(
                f"largest increase of the loss within {ball}",
                IN_LOSS,
                per="task",
                definition="max over ‖e / T‖ ≤ rho of L(w + e) − L(w)",
                source="Foret et al. 2021, arXiv 2010.01412",
            ),
        }

    def cost(self, tasks: int) -> Passes:
        """Return a pass forward and backward for each step, and one more forward, of each task."""
        return Passes(forward=tasks, backward=tasks * self.n_steps)

    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> dict[str, float]:
        """Return the loss and its largest increase; see `worst_case_sharpness`."""
        measured = worst_case_sharpness(
            module, loss, batches, self.rho, self.adaptive, self.n_steps, parameters
        )
        return {"loss": measured.loss, "sharpness": measured.worst_case}


@dataclass(frozen=True)
class WorstCaseSharpness:
    """What `worst_case_sharpness` returns.

    Attributes:
        loss: at the weights.
        worst_case: the largest increase over it; NaN where the loss or its gradient is not finite there.
        rho, adaptive, n_steps: as they were given.
    """

    loss: float
    worst_case: float
    rho: float
    adaptive: bool
    n_steps: int


@dataclass(frozen=True)
class AverageSharpness:
    """What `average_sharpness` returns.

    Attributes:
        loss: at the weights.
        average: the mean increase over it; NaN where it is not finite.
        deviation: the standard deviation of the samples; None for a single one, or if the loss is not finite.
        rho, adaptive, n_samples, seed: as they were given.
    """

    loss: float
    average: float
    deviation: float | None
    rho: float
    adaptive: bool
    n_samples: int
    seed: int


def worst_case_sharpness(
    module: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    rho: float,
    adaptive: bool = False,
    n_steps: int = 1,
    parameters: Iterable[Tensor] | None = None,
) -> WorstCaseSharpness:
    """Measure how far the loss rises inside a ball around the weights.

    ``max_{||e / T|| <= rho} L(w + e) - L(w)``, ``L = mean over batches of loss(batch)``,
    ``T = 1`` (the ball of SAM) or ``T = |w|`` (of ASAM)

    One ascent step, ``e = rho T^2 g / ||T g||``, is the first-order answer and what SAM trains against. With
    `n_steps` > 1 the ascent is projected: ``u <- project(u + a T g(w + T u) / ||T g||)``, ``e = T u``, in
    steps of length ``a = 2 rho / n_steps`` (never over rho), and the largest increase on the way counts. One
    step may give a negative increase, where the loss is far from linear; overflow gives infinity.

    The module is measured in evaluation mode. Weights, `.grad` and modes are put back as they were, bit for
    bit, also after an exception. Costs `n_steps` forward and backward passes and one more forward; memory for
    three more copies of `parameters`.

    Args:
        module: what `loss` evaluates.
        loss: batch -> scalar loss, a mean over the examples of the batch.
        batches: the fixed set, gone through in order; every batch has the same weight.
        rho: radius, in weight space (SAM) or in the rescaled space (ASAM); at least 0.
        adaptive: measure in the metric of ASAM (all parameters, eta 0).
        n_steps: ascent steps, at least 1.
        parameters: what is moved; default: every parameter of the module that requires a gradient.

    Raises:
        ValueError: `rho` or `n_steps` is out of range.
        UserError: the weights are too coarse to be perturbed (bfloat16, float16), or there is no batch or
            nothing to move.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> line.weight.data.fill_(2.0)
        tensor([[2.]])
        >>> squared = lambda x: line(x).square().mean()
        >>> worst_case_sharpness(line, squared, [torch.ones(1, 1)], rho=1.0).worst_case      # 3^2 - 2^2
        5.0

    Source:
        Foret et al. 2021, arXiv 2010.01412, equation 2; Kwon et al. 2021 (ASAM), arXiv 2102.11600;
        Andriushchenko & Flammarion 2022, arXiv 2206.06232, for more than one step, whose length is chosen
        differently there.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, but is {n_steps}")
    with Neighbourhood(module, batches, rho, adaptive, parameters).visited() as near:
        at_weights = near.loss(loss, backward=True)
        if not math.isfinite(at_weights + length_of(near.gradients())):
            return WorstCaseSharpness(at_weights, math.nan, rho, adaptive, n_steps)
        shift = [torch.zeros_like(weight) for weight in near.weights]
        length = rho * min(1.0, 2 / n_steps)
        increases = []
        for step in range(n_steps):
            ascent = [near.rescaled(i, gradient) for i, gradient in enumerate(near.gradients())]
            norm = length_of(ascent)
            if not 0 < norm < math.inf:  # nowhere to go from here: a flat point, or the loss overflowed
                break
            for u, direction in zip(shift, ascent, strict=True):
                u.add_(direction, alpha=length / norm)
            outside = length_of(shift) / rho if rho > 0 else 0.0
            if outside > 1:
                for u in shift:
                    u.div_(outside)
            near.move(shift)
            increases.append(_increase(near.loss(loss, backward=step < n_steps - 1), at_weights))
    return WorstCaseSharpness(at_weights, max(increases, default=0.0), rho, adaptive, n_steps)


def average_sharpness(
    module: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    rho: float,
    adaptive: bool = False,
    n_samples: int = 8,
    seed: int = 0,
    parameters: Iterable[Tensor] | None = None,
) -> AverageSharpness:
    """Measure how far the loss rises on average at distance rho, in random directions.

    ``E_z L(w + rho T z / ||z||) - L(w)``, ``z ~ N(0, I)``, ``T = 1`` or ``T = |w|``

    Directions come from a generator of their own, on the CPU: the same on every device, and no other random
    stream is touched. Otherwise as `worst_case_sharpness`; costs `n_samples` + 1 forward passes.

    Args:
        module, loss, batches, rho, adaptive, parameters: as in `worst_case_sharpness`.
        n_samples: directions, at least 1.
        seed: of the directions.

    Raises:
        ValueError: `rho` or `n_samples` is out of range.
        UserError: as in `worst_case_sharpness`.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> line.weight.data.fill_(2.0)
        tensor([[2.]])
        >>> squared = lambda x: line(x).square().mean()
        >>> result = average_sharpness(line, squared, [torch.ones(1, 1)], rho=1.0, n_samples=64)
        >>> 0 < result.average < 2, result.loss             # the mean of 3^2 - 2^2 and 1^2 - 2^2 is 1
        (True, 4.0)

    Source:
        Andriushchenko & Flammarion 2022, arXiv 2206.06232, with directions on the sphere rather than from a
        Gaussian, so that rho means the same as in the worst case.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, but is {n_samples}")
    generator = torch.Generator().manual_seed(seed)
    increases = []
    with Neighbourhood(module, batches, rho, adaptive, parameters).visited() as near:
        at_weights = near.loss(loss, backward=False)
        if not math.isfinite(at_weights):
            return AverageSharpness(at_weights, math.nan, None, rho, adaptive, n_samples, seed)
        for _ in range(n_samples):
            direction = [
                torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device) for w in near.weights
            ]
            norm = length_of(direction)
            near.move([z * (rho / norm) for z in direction])
            increases.append(_increase(near.loss(loss, backward=False), at_weights))
    spread = torch.tensor(increases, dtype=torch.float64)
    deviation = float(spread.std()) if n_samples > 1 else None
    return AverageSharpness(at_weights, float(spread.mean()), deviation, rho, adaptive, n_samples, seed)


def _increase(loss: float, at_weights: float) -> float:
    return math.inf if math.isnan(loss) else loss - at_weights
