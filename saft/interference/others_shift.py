"""Rise of a task's loss when the other tasks' vectors are added: the shift that merging makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import torch

from saft.config import Count, FiniteFloat, Seed, checked
from saft.interference.functions import FunctionMeasure
from saft.interference.loss import length_of
from saft.interference.quantity import IN_LOSS, MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import Point, TaskSpace

__all__ = ["OthersShift"]


@MEASURES.register("others_shift")
@checked
@dataclass(frozen=True)
class OthersShift(FunctionMeasure):
    r"""How far a task's loss rises when other tasks' vectors are added to its own model.

    .. math:: r_{ts} = L_t(\theta_t + c\,\tau_s) - L_t(\theta_t), \qquad
       r_t = L_t\Big(\theta_t + c \sum_{s \ne t} \tau_s\Big) - L_t(\theta_t)

    Sharpness in the directions that merging takes. Beside it the rise in random directions as long as the
    others' vectors are on average, which are of no model that anybody makes: the difference is interference.
    Those leave the statistics of batch norms, which are no directions: a variance below 0 is not one.

    Args:
        coefficient: c.
        samples: random directions.
        seed: of the random directions.

    Example:
        >>> OthersShift(samples=2).cost(tasks=4)
        Passes(forward=28, backward=0.0, merges=0.0)
    """

    coefficient: FiniteFloat = 0.3
    samples: Count = 2
    seed: Seed = 0

    standard = True
    quantities: ClassVar[dict[str, Quantity]] = {
        "shift_by_other": Quantity(
            "rise of a task's loss when another's vector is added to its own model",
            IN_LOSS,
            per="pair",
            axes=("task", "vector of"),
            definition="L_t(θ_t + c τ_s) − L_t(θ_t)",
            cell="rise of the loss of the row's task when the column's vector is added to its own model; "
            "above 0 that vector hurts it",
        ),
        "shift_by_others": Quantity(
            "rise of a task's loss when all other vectors are added to its own model",
            IN_LOSS,
            per="task",
            definition="L_t(θ_t + c Σ_{s≠t} τ_s) − L_t(θ_t)",
        ),
        "shift_at_random": Quantity(
            "rise of a task's loss by random shifts as long as another's vector, on average",
            IN_LOSS,
            per="task",
            definition="mean over z ~ N(0, I) of L_t(θ_t + r z / ‖z‖) − L_t(θ_t), r the mean of ‖c τ_s‖",
        ),
        "shift_at_random_error": Quantity(
            "standard error of that mean, from the finite number of directions",
            IN_LOSS,
            per="task",
            definition="standard deviation over the directions / √n",
            error_of="shift_at_random",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return, of each task, a pass at its model, at each shift, at all together, and at random ones."""
        return Passes(forward=tasks * (tasks + 1 + self.samples))

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return all four; nothing of a single task, and no error of a single direction."""
        if len(space.tasks) < 2:
            return {}
        by_other: dict[str, dict[str, float]] = {}
        by_all, at_random, error = {}, {}, {}
        lengths = {task: _length(space, task) for task in space.tasks}
        for t in space.tasks:
            others = [s for s in space.tasks if s != t]
            own = space.response(t, space.expert(t)).loss

            def rise(added: list[str], t: str = t, own: float = own) -> float:
                point = Point.of({t: 1.0} | dict.fromkeys(added, self.coefficient))
                return space.response(t, point).loss - own

            by_other[t] = {s: rise([s]) for s in others}
            by_all[t] = rise(others)
            length = abs(self.coefficient) * fmean(lengths[s] for s in others)
            losses = self._at_random(space, t, length)
            at_random[t] = fmean(losses) - own
            if len(losses) > 1:
                error[t] = float(torch.tensor(losses).double().std()) / math.sqrt(len(losses))
        shifts: dict[str, Measured] = {
            "shift_by_other": by_other,
            "shift_by_others": by_all,
            "shift_at_random": at_random,
        }
        return shifts | ({"shift_at_random_error": error} if error else {})

    def _at_random(self, space: TaskSpace, task: str, length: float) -> list[float]:
        """Return the losses at random points of this distance; the directions are of the seed only."""
        generator = torch.Generator().manual_seed(self.seed)
        losses = []
        for _ in range(self.samples):
            direction = {
                name: torch.randn(space.base[name].shape, generator=generator) for name in space.trained
            }
            factor = length / (length_of(list(direction.values())) or 1.0)  # where no weight is merged
            shift = {name: factor * part for name, part in direction.items()}
            losses.append(space.shifted(task, space.expert(task), shift).loss)
        return losses


def _length(space: TaskSpace, task: str) -> float:
    vector = space.task_vector(task)
    return length_of([vector[name] for name in space.trained])
