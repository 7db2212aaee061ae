"""NuSLERP: spherical interpolation between two models or two task vectors, by weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra import gram
from saft.merging.method import Steps, Tensorwise, for_each_task, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["NuSlerp"]

_NORM = 1e-7  # below which a vector has no direction, as in mergekit
_SINE = 1e-8  # below which the arc is a line, as in mergekit
_NO_WEIGHT = 1e-6  # sums of weights below it say nothing, and the middle is taken


@METHODS.register("nuslerp")
@dataclass(frozen=True, kw_only=True)
class NuSlerp(Tensorwise):
    """Goes from the first model to the second along an arc, as far as the second one's share of the weights.

    It is SLERP with two weights in place of t, which bends as well where the models are close, and may go
    around the base: then the task vectors are interpolated. A tensor of zeros has no direction, and counts as
    orthogonal; where the directions are the same or opposite, the arc is a straight line. Weights that add up
    to zero give the middle.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(NuSlerp(weights=(1.0, 1.0)), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.7071, 0.7071])
    """

    weights: tuple[float, ...] = parameter((1.0,), "of the two models, or one for both")
    center: str = parameter("zero", "what the arc goes around", choices=("zero", "base"))

    formula = "θ = c + (sin((1 − t) ω) v1 + sin(t ω) v2) / sin ω;  vₜ = θₜ − c;  t = w2 / (w1 + w2)"
    card_template = (
        "the point of the arc from the first model to the second, around {center}, at weights {weights}"
    )
    source = "Goddard et al. 2024, Arcee's mergekit (arXiv 2403.13257), version 0.1.4: nuslerp"
    deviations = "from mergekit in rounding only: angles are computed in float64; not by rows"
    scaling = 1.0
    scaling_grid = (1.0,)
    min_models = 2
    max_models = 2

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the interpolation; no statistic is needed."""
        yield from ()
        first, second = for_each_task(self.weights, tasks, torch.float64).flatten().tolist()
        t = second / (first + second) if abs(first + second) >= _NO_WEIGHT else 0.5

        def merge(block: Block) -> Tensor:
            coefficients = _coefficients(gram.around(block, self.center), t)
            return gram.combination_around(
                block, self.center, torch.tensor(coefficients, dtype=torch.float64)
            )

        return merge


def _coefficients(products: Tensor, t: float) -> list[float]:
    first, second = products.diagonal().sqrt().tolist()
    cosine = 0.0
    if min(first, second) > _NORM:
        cosine = max(-1.0, min(1.0, float(products[0, 1]) / (first * second)))
    angle = math.acos(cosine)
    sine = math.sin(angle)
    if abs(sine) < _SINE:
        return [1 - t, t]
    return [math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine]
