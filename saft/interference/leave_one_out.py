"""Leave-one-out: the merge of all against the merge without one, which tells who hurts whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from saft.interference.functions import MergeMeasure
from saft.interference.quantity import DIFFERENCE, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import TaskSpace

__all__ = ["LeaveOneOut"]


HARM = Quantity(
    "by how much a task is better when one of the other models is left out of the merge",
    DIFFERENCE,
    per="pair",
    axes=("without", "task"),
    definition="h_jt = score_t(merge without j) − score_t(merge of all), j ≠ t",
    cell="by how much the column's task is better when the row's model is left out of the merge; above 0 "
    "that model hurts it",
)
CONTRIBUTION = Quantity(
    "by how much a task is worse when its own model is left out of the merge",
    DIFFERENCE,
    per="task",
    definition="c_t = score_t(merge of all) − score_t(merge without t)",
)


@MEASURES.register("leave_one_out")
@dataclass(frozen=True)
class LeaveOneOut(MergeMeasure):
    r"""How every task changes when one model is left out of the merge.

    .. math:: h_{jt} = \text{score}_t(m(T \setminus \{j\})) - \text{score}_t(m(T)), \quad j \ne t

    The coefficient is that of the merge of all. Every number has the sign that makes more better: a positive
    h says that t is better without j.

    Example:
        >>> LeaveOneOut().cost(tasks=4)
        Passes(forward=20, backward=0.0, merges=5)
    """

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "harm": HARM,
        "harm_error": HARM.paired_error("harm"),
        "contribution": CONTRIBUTION,
        "contribution_error": CONTRIBUTION.paired_error("contribution"),
    }

    def cost(self, tasks: int) -> Passes:
        """Return all tasks' passes on the merge of all and on each with one left out."""
        return Passes(forward=tasks + tasks * tasks, merges=tasks + 1)

    def merges(self, tasks: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield all tasks, and all but each one; nothing of a single task."""
        if len(tasks) > 1:
            yield tuple(tasks)
            yield from combinations(tasks, len(tasks) - 1)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return both with their errors; nothing of a single task, of which no merge is left."""
        if len(space.tasks) < 2:
            return {}
        every = space.merged()
        whole = {t: space.score(t, every) for t in space.tasks}
        harm: dict[str, dict[str, float]] = {}
        harm_error: dict[str, dict[str, float]] = {}
        contribution, contribution_error = {}, {}
        for j in space.tasks:
            rest = space.merged([task for task in space.tasks if task != j])
            changes = {t: space.better(t, space.score(t, rest), whole[t]) for t in space.tasks}
            errors = {t: space.paired_error(t, rest, every) for t in space.tasks}
            contribution[j], contribution_error[j] = -changes.pop(j), errors.pop(j)
            harm[j], harm_error[j] = changes, errors
        return {
            "harm": harm,
            "harm_error": harm_error,
            "contribution": contribution,
            "contribution_error": contribution_error,
        }
