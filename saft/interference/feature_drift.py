"""Drift: how far fine-tuning on one task has moved what the model gives for the inputs of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import FunctionMeasure, disagreement, distance_of_directions
from saft.interference.quantity import MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import BASE, TaskSpace

__all__ = ["FeatureDrift"]

AXES = ("model of", "inputs of")


@MEASURES.register("feature_drift")
@dataclass(frozen=True)
class FeatureDrift(FunctionMeasure):
    r"""How far every expert has moved from the base on the inputs of every task; no label is read.

    .. math:: d_{st} = \frac1n \sum_{x \in D_t} \lVert \hat h(x; \theta_s) - \hat h(x; \theta_0) \rVert^2

    h is what the head reads, made of length 1 under the hat. A task vector that moves nothing of another
    task's inputs cannot hurt that task, however long it is and whatever its direction.

    Example:
        >>> FeatureDrift().cost(tasks=4).forward
        20

    Source: what the penalty `drift` holds down; after Yoshida et al. 2025, "Mastering Task
        Arithmetic", ICLR 2025, who measure it on the linearised model.
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "feature_drift": Quantity(
            "how far one task's model turns the features of another task's inputs from the base's, 0 to 4",
            per="pair",
            decimals=3,
            axes=AXES,
            definition="d_st = mean over x of D_t of ‖ĥ(x; θ_s) − ĥ(x; θ₀)‖²",
            cell="how far the row's model turns the features of the column's inputs from the base's, 0 to 4; "
            "0 cannot hurt that task",
            source="Yoshida et al. 2025, Mastering Task Arithmetic",
        ),
        "changed_predictions": Quantity(
            "of another task's inputs, the share whose prediction one task's model changes",
            "%",
            per="pair",
            scale=100,
            decimals=1,
            axes=AXES,
            definition="share of x of D_t with argmax f_t(x; θ_s) ≠ argmax f_t(x; θ₀)",
            cell="share of the column's inputs whose prediction the row's model changes from the base's; 0 "
            "cannot hurt that task",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass for each pair, and one at the base for each task."""
        return Passes(forward=tasks * tasks + tasks)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both matrices; the diagonal is what fine-tuning did on its own task."""
        drift: dict[str, dict[str, float]] = {}
        changed: dict[str, dict[str, float]] = {}
        for t in space.tasks:  # first, so that the base is gone to once
            space.response(t, BASE)
        for s in space.tasks:
            for t in space.tasks:
                base, moved = space.response(t, BASE), space.response(t, space.expert(s))
                distance = distance_of_directions(moved.features, base.features)
                drift.setdefault(s, {})[t] = distance
                changed.setdefault(s, {})[t] = disagreement(base.predictions, moved.predictions)
        return {"feature_drift": drift, "changed_predictions": changed}
