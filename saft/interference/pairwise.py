"""Pairwise merges: what a task loses when its model is merged with one other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import MergeMeasure, pairs
from saft.interference.quantity import IN_METRIC, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import TaskSpace

__all__ = ["Pairwise"]


@MEASURES.register("pairwise")
@dataclass(frozen=True)
class Pairwise(MergeMeasure):
    r"""What every task loses in the merge of its model with one other.

    .. math:: \ell_{ts} = \text{score}_t(\theta_t) - \text{score}_t(m(\{t, s\}))

    Positive where it loses, whichever way the metric is better.

    Example:
        >>> Pairwise().cost(tasks=4)
        Passes(forward=16, backward=0.0, merges=6.0)
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "pair_loss": Quantity(
            "by how much a task is worse in the merge with one other model than in its own",
            IN_METRIC,
            per="pair",
            axes=("task", "merged with"),
            definition="ℓ_ts = score_t(θ_t) − score_t(merge of t and s)",
        )
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes for each pair, and one on each expert."""
        return Passes(forward=tasks * tasks, merges=tasks * (tasks - 1) / 2)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return the matrix without its diagonal; nothing of a single task."""
        own = {t: space.score(t, space.expert(t)) for t in space.tasks}
        losses: dict[str, dict[str, float]] = {t: {} for t in space.tasks}
        for s, t in pairs(space.tasks):
            for task, other in ((s, t), (t, s)):
                score = space.score(task, space.merged([s, t]))
                losses[task][other] = space.better(task, own[task], score)
        return {"pair_loss": losses} if len(space.tasks) > 1 else {}
