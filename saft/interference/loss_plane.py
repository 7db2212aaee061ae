"""The loss over the plane of two task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from saft.config import FiniteFloat, Range, checked
from saft.interference.functions import FunctionMeasure, check_coefficients, coefficients, pairs
from saft.interference.quantity import IN_LOSS, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["LossPlane"]


@MEASURES.register("loss_plane")
@checked
@dataclass(frozen=True)
class LossPlane(FunctionMeasure):
    r"""The mean loss of two tasks over the plane of their task vectors.

    .. math:: \tfrac12 (L_s + L_t)(\theta_0 + a\,\tau_s + b\,\tau_t)

    Args:
        grid: coefficients on each side; the defaults are those of the disentanglement error, whose passes it
            shares.
        low: the least.
        high: the greatest.

    Example:
        >>> LossPlane(grid=3).cost(tasks=2)
        Passes(forward=18, backward=0.0, merges=0.0)

    Source: Garipov et al. 2018, "Loss Surfaces, Mode Connectivity", arXiv 1802.10026, for planes of weights.
    """

    grid: Annotated[int, Range(whole=True, at_least=2, at_most=101)] = 4
    low: FiniteFloat = 0.0
    high: FiniteFloat = 1.5

    def __post_init__(self) -> None:
        check_coefficients(self.low, self.high, self.grid)

    quantities: ClassVar[dict[str, Quantity]] = {
        "loss_plane": Quantity(
            "mean loss of two tasks at the base plus coefficients times their task vectors",
            IN_LOSS,
            per="grid",
            axes=("task", "other task", "coefficient of the task", "coefficient of the other task"),
            definition="½ (L_s + L_t)(θ₀ + a τ_s + b τ_t)",
            source="Garipov et al. 2018, arXiv 1802.10026",
        )
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes at every point of each pair's plane."""
        return Passes(forward=tasks * (tasks - 1) * self.grid**2)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return the loss at each point, of each pair once."""
        grid = coefficients(self.low, self.high, self.grid)
        planes: dict[str, Any] = {}
        for s, t in pairs(space.tasks):
            planes.setdefault(s, {})[t] = {
                first: {
                    second: sum(space.response(task, Point.of({s: a, t: b})).loss for task in (s, t)) / 2
                    for second, b in grid.items()
                }
                for first, a in grid.items()
            }
        return {"loss_plane": planes} if planes else {}
