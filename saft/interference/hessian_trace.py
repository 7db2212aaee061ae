"""The trace of the loss's Hessian: its curvature summed over all directions, by random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

import torch
from torch import Tensor, nn

from saft.config import Count, Seed, checked
from saft.interference.loss import Batch, LossMeasure, Neighbourhood, inner_product
from saft.interference.quantity import IN_LOSS, MEASURES, Passes, Quantity

__all__ = ["HessianTrace", "hessian_trace"]


@MEASURES.register("hessian_trace")
@checked
@dataclass(frozen=True)
class HessianTrace(LossMeasure):
    """Trace of the Hessian of the loss, and its standard error; see the function `hessian_trace`.

    Args:
        n_samples: random vectors.
        seed: of the vectors.

    Example:
        >>> HessianTrace(n_samples=10).cost(tasks=2)
        Passes(forward=0.0, backward=40, merges=0.0)
    """

    n_samples: Count = 3
    seed: Seed = 0

    quantities: ClassVar[dict[str, Quantity]] = {
        "hessian_trace": Quantity(
            "trace of the Hessian of the loss: its curvature, summed over all directions",
            IN_LOSS,
            per="task",
            definition="tr ∇²L(w), as the mean of zᵀ ∇²L(w) z over random signs z",
            source="Hutchinson 1990",
        ),
        "hessian_trace_error": Quantity(
            "standard error of that trace, from the finite number of random vectors",
            IN_LOSS,
            per="task",
            definition="standard deviation of zᵀ ∇²L(w) z / √n",
            source="Hutchinson 1990",
            error_of="hessian_trace",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes forward and backward for each product, of each task."""
        return Passes(backward=2 * tasks * self.n_samples)

    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> dict[str, float]:
        """Return the trace; and its error, where there are two vectors or more."""
        trace, error = hessian_trace(module, loss, batches, self.n_samples, self.seed, parameters)
        return {"hessian_trace": trace} | ({} if error is None else {"hessian_trace_error": error})


def hessian_trace(
    module: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    n_samples: int = 3,
    seed: int = 0,
    parameters: Iterable[Tensor] | None = None,
) -> tuple[float, float | None]:
    r"""Return an unbiased estimate of the trace of the Hessian of the mean loss, and its standard error.

    .. math:: \text{tr} H = \mathbb{E}_z\, z^\top H z, \qquad z_i = \pm 1

    Args:
        module, loss, batches, parameters: as in `saft.interference.worst_case_sharpness`.
        n_samples: random vectors, at least 1.
        seed: of the vectors, drawn on the CPU.

    Returns:
        The mean over the vectors, and its standard error; None for one vector. NaN where a sample is not
        finite.

    Raises:
        UserError: there is no batch, or nothing to move.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> stretch = torch.diag(torch.tensor([3.0, 1.0]))
        >>> hessian_trace(line, lambda x: line(x).square().sum() / 2, [stretch])
        (10.0, 0.0)

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
    """
    generator = torch.Generator().manual_seed(seed)
    samples = []
    with Neighbourhood(module, batches, 0.0, False, parameters).visited() as near:
        for _ in range(n_samples):
            signs = [
                torch.randint(0, 2, w.shape, generator=generator, dtype=w.dtype).mul_(2).sub_(1).to(w)
                for w in near.weights
            ]
            samples.append(inner_product(near.hessian_product(loss, signs), signs))
    if not all(map(math.isfinite, samples)):  # where the loss is not, whose spread Python does not give
        return math.nan, None
    return fmean(samples), stdev(samples) / math.sqrt(n_samples) if n_samples > 1 else None
