"""The Karcher mean: the point of the sphere that is nearest to all models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra import gram
from saft.merging.method import Steps, Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Karcher"]

_ROUNDING = 1e-6  # lengths below it, and angles as near to π, are the inner products' rounding


@METHODS.register("karcher")
@dataclass(frozen=True, kw_only=True)
class Karcher(Tensorwise):
    """Takes the mean direction on the sphere, and the mean of the norms, tensor by tensor.

    The direction minimizes the sum of the squared angles to the models' directions. It is found by steps in
    the tangent space, from the direction of the mean of the unit vectors; from the first model where that
    mean is zero. Tensors are taken as vectors of weights, not of differences. A tensor of zeros has no
    direction: it counts only in the mean of the norms. So does, in a step, a model exactly opposite to the
    point that is reached, from which no shortest way leads to it. With two models this is SLERP at one half,
    but for the norm.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Karcher(), torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        tensor([2.1213, 2.1213])
    """

    iterations: int = parameter(10, "steps at most", at_least=0)
    tolerance: float = parameter(
        1e-5,
        "length of a step, in radians, below which no further is taken; norms below it count as zero",
        above=0,
    )

    formula = "θ = (1/K) Σₜ ‖θₜ‖ · argmin over unit u of Σₜ angle(u, θₜ)²"
    card_template = "the Karcher mean of the models' directions and the mean of their norms, tensor by tensor"
    source = (
        "Karcher 1977, Riemannian center of mass and mollifier smoothing; of weights as in mergekit "
        "(Goddard et al. 2024, arXiv 2403.13257)"
    )
    deviations = (
        "from mergekit in rounding only: angles are computed in float64; but there rounding chooses the "
        "direction and the length where a model is opposite to the mean"
    )
    scaling = 1.0
    scaling_grid = (1.0,)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the mean; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            products = gram.of_weights(block)
            norms = products.diagonal().sqrt()
            valid = norms > self.tolerance
            if not valid.any():
                return -block.base
            inverse = torch.where(valid, 1 / norms.clamp(min=self.tolerance), 0)
            direction = self._direction(products * inverse * inverse.unsqueeze(1), valid)
            return gram.combination(block, direction * inverse * norms.mean())

        return merge

    def _direction(self, cosines: Tensor, valid: Tensor) -> Tensor:
        """Return the mean direction by its coefficients of the unit vectors: float64 [n_tasks]."""
        weights = valid / valid.sum()
        mean = weights.double()
        length = _length(mean, cosines)
        directed = length >= max(self.tolerance, _ROUNDING)
        mean = mean / length if directed else (valid.cumsum(0) * valid == 1).double()
        for _ in range(self.iterations):
            cosine = (cosines @ mean).clamp(-1, 1)
            angle = cosine.arccos()
            still = (angle < self.tolerance) | (angle > math.pi - _ROUNDING)
            pull = torch.where(still, 0, weights * angle / angle.sin().clamp(min=1e-300))
            tangent = pull - (pull * cosine).sum() * mean
            step = _length(tangent, cosines)
            if step < self.tolerance:
                break
            mean = step.cos() * mean + step.sin() / step * tangent
            mean = mean / _length(mean, cosines)
        return mean


def _length(coefficients: Tensor, cosines: Tensor) -> Tensor:
    """Return the norm of a combination of unit vectors."""
    return (coefficients @ cosines @ coefficients).clamp(min=0).sqrt()
