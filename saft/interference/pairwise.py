"""Pairwise merges: what a task loses when its model is merged with one other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import MergeMeasure, pairs
from saft.interference.quantity import DIFFERENCE, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["Pairwise"]


LOSS = Quantity(
    "by how much a task is worse in the merge with one other model than in its own",
    DIFFERENCE,
    per="pair",
    axes=("task", "merged with"),
    definition="ℓ_ts = score_t(θ_t) − score_t(merge of t and s)",
    cell="by how much the row's task is worse merged with the column's model than in its own; above 0 it "
    "loses by the merge",
)
HARM = Quantity(
    "by how much a task is worse in the merge with one other model than with its own vector scaled",
    DIFFERENCE,
    per="pair",
    axes=("task", "merged with"),
    definition="h_ts = score_t(θ₀ + λ τ_t) − score_t(merge of t and s)",
    cell="by how much the row's task is worse merged with the column's model than with its own vector "
    "scaled; above 0 that model hurts it",
)


@MEASURES.register("pairwise")
@dataclass(frozen=True)
class Pairwise(MergeMeasure):
    r"""What every task loses in the merge of its model with one other, and what of it is the other's doing.

    .. math:: \ell_{ts} = a_t(\theta_t) - a_t(m(\{t, s\})), \qquad
       h_{ts} = a_t(\theta_0 + \lambda \tau_t) - a_t(m(\{t, s\}))

    a is the score. A task also loses because its own vector is scaled by the coefficient of the merge: h
    leaves that out. Both are positive where it loses, whichever way the metric is better.

    Example:
        >>> Pairwise().cost(tasks=4)
        Passes(forward=20, backward=0.0, merges=6.0)
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "pair_loss": LOSS,
        "pair_loss_error": LOSS.paired_error("pair_loss"),
        "pair_harm": HARM,
        "pair_harm_error": HARM.paired_error("pair_harm"),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes for each pair, and two on each task's own vector."""
        return Passes(forward=tasks * tasks + tasks, merges=tasks * (tasks - 1) / 2)

    def merges(self, tasks: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield each pair of tasks."""
        yield from pairs(tasks)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both matrices, without their diagonals, and their errors; nothing of a single task."""
        if len(space.tasks) < 2:
            return {}
        own = {t: space.expert(t) for t in space.tasks}
        scaled = {t: Point.of({t: space.scaling}) for t in space.tasks}
        before = {"pair_loss": own, "pair_harm": scaled}
        for points in before.values():  # first, so that each is gone to once
            for t in space.tasks:
                space.score(t, points[t])
        values: dict[str, dict[str, dict[str, float]]] = {
            name: {t: {} for t in space.tasks} for name in self.quantities
        }
        for s, t in pairs(space.tasks):
            pair = space.merged([s, t])
            for task, other in ((s, t), (t, s)):
                score = space.score(task, pair)
                for name, points in before.items():
                    was = space.score(task, points[task])
                    values[name][task][other] = space.better(task, was, score)
                    values[f"{name}_error"][task][other] = space.paired_error(task, pair, points[task])
        return dict(values)
