"""Transfer matrix: how every task's own model does on the examples of every other task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saft.interference.functions import FunctionMeasure
from saft.interference.quantity import DIFFERENCE, IN_METRIC, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import BASE, TaskSpace

__all__ = ["Transfer"]

AXES = ("model of", "examples of")


GAIN = Quantity(
    "by how much one task's model is better than the base on the examples of another",
    DIFFERENCE,
    per="pair",
    axes=AXES,
    definition="g_st = score_t(θ_s) − score_t(θ₀), its sign turned where lower is better",
    cell="by how much the row's model is better than the base on the column's examples; below 0 it has taken "
    "something from that task",
)


@MEASURES.register("transfer")
@dataclass(frozen=True)
class Transfer(FunctionMeasure):
    r"""How every expert does on the examples of every task, with that task's head.

    .. math:: a_{st} = \text{score}_t(\theta_s), \qquad g_{st} = a_{st} - \text{score}_t(\theta_0)

    The gain has the sign that makes more better, whatever the metric. Below zero, fine-tuning on s has taken
    something from t before anything was merged.

    Example:
        >>> Transfer().cost(tasks=4)
        Passes(forward=20, backward=0.0, merges=0.0)
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "transfer": Quantity(
            "score of one task's model on the examples of another",
            IN_METRIC,
            per="pair",
            axes=AXES,
            definition="a_st = score_t(θ_s)",
            cell="score of the row's model on the column's examples, with the head of the column's task",
        ),
        "transfer_gain": GAIN,
        "transfer_gain_error": GAIN.paired_error("transfer_gain"),
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass for each pair, and one at the base for each task."""
        return Passes(forward=tasks * tasks + tasks)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both matrices, the diagonal included, and the errors of the gains."""
        scores = {s: {t: space.score(t, space.expert(s)) for t in space.tasks} for s in space.tasks}
        gains = {
            s: {t: space.better(t, score, space.score(t, BASE)) for t, score in row.items()}
            for s, row in scores.items()
        }
        errors = {
            s: {t: space.paired_error(t, space.expert(s), BASE) for t in space.tasks} for s in space.tasks
        }
        return {"transfer": scores, "transfer_gain": gains, "transfer_gain_error": errors}
