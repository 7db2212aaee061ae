"""SLERP: spherical interpolation between two models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra import gram
from saft.merging.method import Steps, Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Slerp"]

_PARALLEL = 0.9995  # cosine above which the arc is a line, as in mergekit
_NORM = 1e-8  # below which a vector has no direction, as in mergekit


@METHODS.register("slerp")
@dataclass(frozen=True, kw_only=True)
class Slerp(Tensorwise):
    """Goes from the first model to the second along an arc, tensor by tensor.

    The tensors are taken as vectors of weights, not of differences: the base only says what is merged. The
    angle is that between their directions; the weights themselves are combined, so their norms go
    from the first to the second as well. Where the cosine of the angle is beyond ±0.9995, or a tensor is
    zero, the arc is a straight line. Two models that were fine-tuned from one base are mostly that close:
    for them this is the average.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Slerp(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.7071, 0.7071])
    """

    t: float = parameter(0.5, "how far from the first model, 0, to the second, 1", at_least=0, at_most=1)

    formula = "θ = (sin((1 − t) ω) θ1 + sin(t ω) θ2) / sin ω;  ω = the angle between θ1 and θ2"
    card_template = "the point at {t:g} of the arc from the first model to the second, tensor by tensor"
    source = (
        "Shoemake 1985, Animating rotation with quaternion curves; of weights as in mergekit "
        "(Goddard et al. 2024, arXiv 2403.13257)"
    )
    deviations = (
        "from mergekit in rounding only: angles are computed in float64; but a tensor of zeros is there at a "
        "right angle to any other, so that halfway to one that is not zero lies 0.71 of it, and here half"
    )
    scaling = 1.0
    scaling_grid = (1.0,)
    min_models = 2
    max_models = 2

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the interpolation; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            products = gram.of_weights(block)
            first, second = products.diagonal().sqrt().tolist()
            cosine = 1.0
            if min(first, second) > _NORM:
                cosine = float(products[0, 1]) / (first * second)
            return gram.combination(block, self._coefficients(cosine))

        return merge

    def _coefficients(self, cosine: float) -> Tensor:
        if abs(cosine) > _PARALLEL:
            return torch.tensor([1 - self.t, self.t], dtype=torch.float64)
        angle = math.acos(cosine)
        shares = [math.sin((1 - self.t) * angle), math.sin(self.t * angle)]
        return torch.tensor(shares, dtype=torch.float64) / math.sin(angle)
