"""The loss along a line: from the base to a task's own model, and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from saft.config import FiniteFloat, Range, checked
from saft.interference.functions import FunctionMeasure, check_coefficients, coefficients
from saft.interference.quantity import IN_LOSS, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["LossLine"]


@MEASURES.register("loss_line")
@checked
@dataclass(frozen=True)
class LossLine(FunctionMeasure):
    r"""Every task's loss along the line from the base to its own model, and beyond.

    .. math:: L_t(\theta_0 + c\,\tau_t)

    At c = 0 is the base, at 1 the task's own model.

    Args:
        grid: points on the line.
        low: the least coefficient.
        high: the greatest.

    Example:
        >>> LossLine(grid=9).cost(tasks=4)
        Passes(forward=36, backward=0.0, merges=0.0)

    Source: Goodfellow et al. 2015, "Qualitatively characterizing neural network optimization problems",
        arXiv 1412.6544.
    """

    grid: Annotated[int, Range(whole=True, at_least=2, at_most=1001)] = 9
    low: FiniteFloat = -0.5
    high: FiniteFloat = 1.5

    def __post_init__(self) -> None:
        check_coefficients(self.low, self.high, self.grid)

    quantities: ClassVar[dict[str, Quantity]] = {
        "loss_line": Quantity(
            "loss of a task at the base plus a coefficient times its task vector",
            IN_LOSS,
            per="grid",
            axes=("task", "coefficient"),
            definition="L_t(θ₀ + c τ_t)",
            source="Goodfellow et al. 2015, arXiv 1412.6544",
        )
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass at every point of each task's line."""
        return Passes(forward=tasks * self.grid)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return the loss of each task at each coefficient."""
        grid = coefficients(self.low, self.high, self.grid)
        return {
            "loss_line": {
                task: {text: space.response(task, Point.of({task: c})).loss for text, c in grid.items()}
                for task in space.tasks
            }
        }
