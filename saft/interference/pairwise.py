"""Pairwise merges: what a task loses when its model is merged with one other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import MergeMeasure, pairs
from saft.interference.quantity import IN_METRIC, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["Pairwise"]


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
        "pair_loss": Quantity(
            "by how much a task is worse in the merge with one other model than in its own",
            IN_METRIC,
            per="pair",
            axes=("task", "merged with"),
            definition="ℓ_ts = score_t(θ_t) − score_t(merge of t and s)",
        ),
        "pair_harm": Quantity(
            "by how much a task is worse in the merge with one other model than with its own vector scaled",
            IN_METRIC,
            per="pair",
            axes=("task", "merged with"),
            definition="h_ts = score_t(θ₀ + λ τ_t) − score_t(merge of t and s)",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes for each pair, and two on each task's own vector."""
        return Passes(forward=tasks * tasks + tasks, merges=tasks * (tasks - 1) / 2)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both matrices without their diagonals; nothing of a single task."""
        own = {t: space.score(t, space.expert(t)) for t in space.tasks}
        alone = {t: space.score(t, Point.of({t: space.scaling})) for t in space.tasks}
        losses: dict[str, dict[str, float]] = {t: {} for t in space.tasks}
        harms: dict[str, dict[str, float]] = {t: {} for t in space.tasks}
        for s, t in pairs(space.tasks):
            for task, other in ((s, t), (t, s)):
                score = space.score(task, space.merged([s, t]))
                losses[task][other] = space.better(task, own[task], score)
                harms[task][other] = space.better(task, alone[task], score)
        return {"pair_loss": losses, "pair_harm": harms} if len(space.tasks) > 1 else {}
