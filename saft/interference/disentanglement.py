"""Weight disentanglement: whether adding another task's vector leaves a task's predictions as they are."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, ClassVar

from saft.config import FiniteFloat, Range, checked
from saft.interference.functions import FunctionMeasure, check_coefficients, coefficients, disagreement, pairs
from saft.interference.quantity import MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["Disentanglement"]


@MEASURES.register("disentanglement")
@checked
@dataclass(frozen=True)
class Disentanglement(FunctionMeasure):
    r"""Disentanglement error of every pair of tasks over a grid of coefficients.

    .. math:: \xi_{st}(a, b) = \tfrac12 \sum_{u \in \{s, t\}} \Pr_{x \in D_u}\left[f(x; \theta_0 + c_u \tau_u)
       \ne f(x; \theta_0 + a \tau_s + b \tau_t)\right], \qquad c_s = a,\ c_t = b

    Args:
        grid: coefficients on each side.
        low: the least.
        high: the greatest.

    Example:
        >>> Disentanglement(grid=3).cost(tasks=2)
        Passes(forward=24, backward=0.0, merges=0.0)

    Source: Ortiz-Jimenez et al. 2023, "Task Arithmetic in the Tangent Space", arXiv 2305.12827, equation 4.
        Differs: the mean of the two tasks instead of their sum, so that 100 % is the worst there is.
    """

    grid: Annotated[int, Range(whole=True, at_least=2, at_most=101)] = 4
    low: FiniteFloat = 0.0
    high: FiniteFloat = 1.5

    def __post_init__(self) -> None:
        check_coefficients(self.low, self.high, self.grid)

    quantities: ClassVar[dict[str, Quantity]] = {
        "disentanglement_error": Quantity(
            "share of two tasks' predictions that adding the other's vector changes, by both coefficients",
            "%",
            per="grid",
            scale=100,
            decimals=1,
            axes=("task", "other task", "coefficient of the task", "coefficient of the other task"),
            definition="ξ(a, b) = ½ Σ_u Pr[f(x; θ₀ + c_u τ_u) ≠ f(x; θ₀ + a τ_s + b τ_t)]",
            source="Ortiz-Jimenez et al. 2023, arXiv 2305.12827",
        ),
        "disentanglement": Quantity(
            "disentanglement error of two tasks, mean over the grid of coefficients",
            "%",
            per="pair",
            scale=100,
            decimals=1,
            definition="mean of ξ(a, b) over a and b",
            cell="share of the two tasks' predictions that adding the other's vector changes, mean over the "
            "coefficients; the same both ways, and more is worse",
            source="Ortiz-Jimenez et al. 2023, arXiv 2305.12827",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes at every point of the grid of a pair, and those along each task's own line."""
        return Passes(forward=tasks * (tasks - 1) * self.grid**2 + tasks * self.grid)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return the error at each point, of each pair once, and its mean, of each pair in both orders."""
        grid = coefficients(self.low, self.high, self.grid)
        error: dict[str, Any] = {}
        mean: dict[str, dict[str, float]] = {task: {} for task in space.tasks}
        for s, t in pairs(space.tasks):
            values = {
                first: {second: _error(space, {s: a, t: b}) for second, b in grid.items()}
                for first, a in grid.items()
            }
            error.setdefault(s, {})[t] = values
            mean[s][t] = mean[t][s] = fmean(x for row in values.values() for x in row.values())
        return {"disentanglement_error": error, "disentanglement": mean} if error else {}


def _error(space: TaskSpace, coefficients: dict[str, float]) -> float:
    """Return the mean, over the tasks that have a coefficient, of how much the other ones change."""
    both = Point.of(coefficients)
    changes = []
    for task, own in coefficients.items():
        apart = space.response(task, Point.of({task: own})).predictions
        changes.append(disagreement(apart, space.response(task, both).predictions))
    return fmean(changes)
