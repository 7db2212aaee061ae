"""Representation bias: how far the merged model's features are from each task's own model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import MergeMeasure, distance_of_directions
from saft.interference.quantity import MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import TaskSpace

__all__ = ["RepresentationBias"]


@MEASURES.register("representation_bias")
@dataclass(frozen=True)
class RepresentationBias(MergeMeasure):
    r"""Distance of the merged model's features from those of the task's own model, on the task's inputs.

    .. math:: b_t = \frac{1}{n k} \sum_{x \in D_t} \lVert h(x; m) - h(x; \theta_t) \rVert_1

    k is the width of the features h, which the head reads.

    Example:
        >>> RepresentationBias().cost(tasks=4)
        Passes(forward=8, backward=0.0, merges=1)

    Source: Yang et al. 2024, "Representation Surgery for Multi-Task Model Merging", arXiv 2402.02705,
        equation 4. The same distance of directions, which no change of length moves, is beside it.
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "representation_bias": Quantity(
            "mean absolute difference of the merged model's features from the task's own model's",
            per="task",
            definition="b_t = mean over x and features of |h(x; merged) − h(x; θ_t)|",
            source="Yang et al. 2024, arXiv 2402.02705",
        ),
        "representation_turn": Quantity(
            "the same of features made of length 1, squared and summed, 0 to 4",
            per="task",
            decimals=3,
            definition="mean over x of ‖ĥ(x; merged) − ĥ(x; θ_t)‖²",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes of each task."""
        return Passes(forward=2 * tasks, merges=1)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both for each task."""
        bias, turn = {}, {}
        for task in space.tasks:
            own = space.response(task, space.expert(task)).features.double()
            merged = space.response(task, space.merged()).features.double()
            bias[task] = float((merged - own).abs().mean())
            turn[task] = distance_of_directions(merged, own)
        return {"representation_bias": bias, "representation_turn": turn}
