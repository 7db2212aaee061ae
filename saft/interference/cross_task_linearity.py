"""Cross-task linearity: whether the features of the model between two experts lie between their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from saft.config import OpenFraction, checked
from saft.interference.functions import FunctionMeasure, pairs
from saft.interference.quantity import MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["CrossTaskLinearity"]


@MEASURES.register("cross_task_linearity")
@checked
@dataclass(frozen=True)
class CrossTaskLinearity(FunctionMeasure):
    r"""How far from linear every layer is between two experts.

    .. math:: \delta^\ell_{st} = 1 - \frac{1}{|D_s \cup D_t|} \sum_x \cos\left(
       h^\ell(x; \alpha \theta_s + (1 - \alpha) \theta_t),\
       \alpha h^\ell(x; \theta_s) + (1 - \alpha) h^\ell(x; \theta_t)\right)

    0 in every layer means that merging weights averages features, which is as harmless as an ensemble.

    Args:
        alpha: share of the first expert, between 0 and 1.

    Example:
        >>> CrossTaskLinearity().cost(tasks=3)
        Passes(forward=18, backward=0.0, merges=0.0)

    Source: Zhou et al. 2024, "On the Emergence of Cross-Task Linearity in Pretraining-Finetuning Paradigm",
        arXiv 2402.03660. Differs: h is the mean over an example's positions, instead of all of them in a row.
    """

    alpha: OpenFraction = 0.5

    quantities: ClassVar[dict[str, Quantity]] = {
        "cross_task_nonlinearity": Quantity(
            "1 − cosine of a layer's features between two experts with those of the two, mixed likewise",
            per="grid",
            decimals=4,
            axes=("task", "other task", "layer"),
            definition="1 − mean over x of cos(h(x; αθ_s + (1−α)θ_t), αh(x; θ_s) + (1−α)h(x; θ_t))",
            source="Zhou et al. 2024, arXiv 2402.03660",
        )
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass of each of a pair's tasks at its three points."""
        return Passes(forward=3 * tasks * (tasks - 1))

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return it for each layer, of each pair once."""
        result: dict[str, Any] = {}
        for s, t in pairs(space.tasks):
            points = (
                space.expert(s),
                space.expert(t),
                Point.of({s: self.alpha, t: 1 - self.alpha}),
            )
            of_s, of_t, between = ([space.layers(task, point) for task in (s, t)] for point in points)
            layers: dict[str, list[Tensor]] = {}
            for first, second, mixed in zip(of_s, of_t, between, strict=True):
                for layer, features in mixed.items():
                    expected = self.alpha * first[layer] + (1 - self.alpha) * second[layer]
                    layers.setdefault(layer, []).append(_one_minus_cosine(features, expected))
            if layers:  # a model may have none that is numbered
                result.setdefault(s, {})[t] = {
                    layer: float(torch.cat(all_x).mean()) for layer, all_x in layers.items()
                }
        return {"cross_task_nonlinearity": result} if result else {}


def _one_minus_cosine(features: Tensor, expected: Tensor) -> Tensor:
    """Return 1 − cosine of each row in float64, [rows]; half the squared distance, which rounds less."""
    first, second = (functional.normalize(part.double(), dim=-1) for part in (features, expected))
    return (first - second).square().sum(-1) / 2
