"""Joint-task loss linearity: the loss of two tasks together on the line between their experts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from saft.config import Range, checked
from saft.interference.functions import FunctionMeasure, coefficients, pairs
from saft.interference.quantity import IN_LOSS, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["LossLinearity"]


@MEASURES.register("loss_linearity")
@checked
@dataclass(frozen=True)
class LossLinearity(FunctionMeasure):
    r"""How far the joint loss of two tasks lies above the straight line between their experts.

    .. math:: J(\alpha) = L_s(\theta_\alpha) + L_t(\theta_\alpha), \quad \theta_\alpha = \alpha \theta_s +
       (1 - \alpha) \theta_t, \quad g(\alpha) = J(\alpha) - \alpha J(1) - (1 - \alpha) J(0)

    Negative is better than the mixture of the two experts: they help each other in between.

    Args:
        grid: points on the line, its ends included.

    Example:
        >>> LossLinearity(grid=5).cost(tasks=3)
        Passes(forward=30, backward=0.0, merges=0.0)

    Source: the joint-task loss linearity that the SAFT paper plots for its experts; after Frankle et al.
        2020, "Linear Mode Connectivity", arXiv 1912.05671, for one task.
    """

    grid: Annotated[int, Range(whole=True, at_least=3, at_most=1001)] = 5

    quantities: ClassVar[dict[str, Quantity]] = {
        "joint_loss_gap": Quantity(
            "joint loss of two tasks between their models, above the straight line",
            IN_LOSS,
            per="grid",
            axes=("task", "other task", "share of the task's model"),
            definition="g(α) = J(α) − αJ(1) − (1−α)J(0), J = L_s + L_t",
            source="Frankle et al. 2020, arXiv 1912.05671",
        ),
        "loss_barrier": Quantity(
            "largest gap of the joint loss of two tasks between their models; 0 where there is none",
            IN_LOSS,
            per="pair",
            definition="max over α of g(α)",
            cell="by how much the joint loss of the two tasks rises at most above the straight line between "
            "their models; the same both ways, and more is worse",
            source="Frankle et al. 2020, arXiv 1912.05671",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes at every point of each pair's line."""
        return Passes(forward=tasks * (tasks - 1) * self.grid)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return the gap along each line, of each pair once, and its largest value."""
        shares = coefficients(0.0, 1.0, self.grid)
        gaps: dict[str, Any] = {}
        barriers: dict[str, dict[str, float]] = {task: {} for task in space.tasks}
        for s, t in pairs(space.tasks):
            joint = {
                text: sum(space.response(task, Point.of({s: a, t: 1 - a})).loss for task in (s, t))
                for text, a in shares.items()
            }
            line = {text: joint[text] - a * joint["1"] - (1 - a) * joint["0"] for text, a in shares.items()}
            gaps.setdefault(s, {})[t] = line
            barriers[s][t] = barriers[t][s] = max(line.values(), key=_or_broken)
        return {"joint_loss_gap": gaps, "loss_barrier": barriers} if gaps else {}


def _or_broken(gap: float) -> tuple[bool, float]:
    """Order gaps, NaN above all: what is not known between two models is not "no barrier"."""
    return math.isnan(gap), gap
