"""Recovered share: how much of what fine-tuning gained a merge keeps, and how much room is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import MergeMeasure
from saft.interference.quantity import DIFFERENCE, IN_METRIC, MEASURES, Measured, Passes, Quantity
from saft.interference.retained import gain_kept
from saft.interference.task_space import BASE, TaskSpace

__all__ = ["Recovered"]


ROOM = Quantity(
    "by how much the task's own model is better than the merge: what could be won at all",
    DIFFERENCE,
    per="task",
    definition="expert − merged, its sign turned where lower is better",
)


@MEASURES.register("recovered")
@dataclass(frozen=True)
class Recovered(MergeMeasure):
    r"""The scores of base, expert and merge, the share of the gain that is kept, and the room above.

    .. math:: r_t = \frac{a_t(m) - a_t(\theta_0)}{a_t(\theta_t) - a_t(\theta_0)}

    a is the score, m the merge of all.

    Example:
        >>> Recovered().cost(tasks=4)
        Passes(forward=12, backward=0.0, merges=1)
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "base_score": Quantity(
            "score of the pretrained model", IN_METRIC, per="task", definition="score_t(θ₀)"
        ),
        "expert_score": Quantity(
            "score of the task's own model", IN_METRIC, per="task", definition="score_t(θ_t)"
        ),
        "merged_score": Quantity(
            "score of the merge of all", IN_METRIC, per="task", definition="score_t(merge of all)"
        ),
        "score_error": Quantity(
            "standard error of the score of the task's own model, from the finite number of examples",
            IN_METRIC,
            per="task",
            definition="√(a (1 − a) / n) of an accuracy a; of other metrics as their task knows it",
            error_of="expert_score",
        ),
        "recovered": Quantity(
            "share of what fine-tuning gained that the merge keeps: 100 is the task's own model, 0 the base",
            "%",
            per="task",
            scale=100,
            decimals=0,
            definition="(merged − base) / (expert − base)",
        ),
        "room": ROOM,
        "room_error": ROOM.paired_error("room"),
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass of every task on base, expert and merge."""
        return Passes(forward=3 * tasks, merges=1)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return all seven; no share where fine-tuning changed nothing, and no error that is not known."""
        base = {t: space.score(t, BASE) for t in space.tasks}
        expert = {t: space.score(t, space.expert(t)) for t in space.tasks}
        merged = {t: space.score(t, space.merged()) for t in space.tasks}
        errors = {t: space.score_error(t, space.expert(t)) for t in space.tasks}
        shares = {t: gain_kept(merged[t], base[t], expert[t]) for t in space.tasks}
        return {
            "base_score": base,
            "expert_score": expert,
            "merged_score": merged,
            "score_error": {t: error for t, error in errors.items() if error is not None},
            "recovered": {t: share for t, share in shares.items() if share is not None},
            "room": {t: space.better(t, expert[t], merged[t]) for t in space.tasks},
            "room_error": {t: space.paired_error(t, space.expert(t), space.merged()) for t in space.tasks},
        }
