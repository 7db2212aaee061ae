r"""`rho: others`: a perturbation as large as what merging adds to an expert.

Merging K experts with coefficient $\lambda$ gives $w_0 + \lambda \tau_i + s_i$, where the others add

.. math:: s_i = \lambda \sum_{j \ne i} \tau_j, \qquad \rho = \|s_i\|

in the perturbation's own metric at w: $\|s_i\|_2$ for SAM, $\|T^{-1} s_i\|_2$ for ASAM. The sum is known
where the others' task vectors are: `SumOfOthers`. Where they are not, `LikeOwn` estimates its length. With

.. math:: \|s_i\|^2 = \lambda^2 \sum_{j \ne i} \|\tau_j\|^2
    + \lambda^2 \sum_{j \ne k; j, k \ne i} \langle \tau_j, \tau_k \rangle

it is $\lambda \sqrt{K - 1}\, \|\tau_i\|$ if the others' task vectors are orthogonal to each other and each as
long as the task's own, $\tau_i = w - w_0$ so far; in ASAM's metric, if that holds of them after $T^{-1}$. If
they all pointed one way it would be $\lambda (K - 1) \|\tau_i\|$, the most that it can be at this length.

What merging does to the task's own vector, $(\lambda - 1) \tau_i$, is left out. The others' shift has a
direction that knows nothing of this task's loss, and the ascent takes the steepest; so at this radius it asks
for far more than merging does. README has what that comes to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from saft.errors import UserError
from saft.optim.perturbations.base import Perturbation
from saft.optim.slots import AscentSlots, Slot

__all__ = ["Change", "LikeOwn", "SumOfOthers", "with_radius_of_others"]

Change = Callable[[Tensor], Tensor | None]
"""Parameter -> what the sum of the others' task vectors changes of it, in its shape; None where nothing."""

LEAST = 1e-30  # so small that no weight moves, where 0 would turn the ascent off


class SumOfOthers:
    """The change by task vectors that are known.

    Args:
        parameters: name -> parameter of the model that is trained.
        vectors: name -> sum of the others' changes of it from the common base, in its shape.

    Raises:
        UserError: a vector is of no parameter, or has another shape.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> SumOfOthers({"w": w}, {"w": torch.tensor([3.0, 4.0])})(w)
        tensor([3., 4.])
    """

    def __init__(self, parameters: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> None:
        for name, vector in vectors.items():
            if name not in parameters or parameters[name].shape != vector.shape:
                raise UserError(
                    f"rho: others: the task vectors have {name} of shape {list(vector.shape)}, which the"
                    " model has not; they must be those of experts of it"
                )
        self._vectors = {parameters[name]: vector for name, vector in vectors.items()}

    def __call__(self, parameter: Tensor) -> Tensor | None:
        """Return the change of a parameter; None where nothing changes it."""
        return self._vectors.get(parameter)


class LikeOwn:
    r"""A change as long as that by others is: $\sqrt{K - 1}\, (w - w_0)$, w0 being the weights now.

    Args:
        parameters: those that will be merged: no head. Their weights are copied.
        tasks: K, at least 2.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> change = LikeOwn([w], tasks=5)
        >>> _ = w.data.add_(1.0)
        >>> change(w)
        tensor([2., 2.])
    """

    def __init__(self, parameters: Iterable[Tensor], tasks: int) -> None:
        self._before = {parameter: parameter.detach().clone() for parameter in parameters}
        self._factor = math.sqrt(tasks - 1)

    def __call__(self, parameter: Tensor) -> Tensor | None:
        """Return the change of a parameter; None where nothing changes it."""
        if parameter not in self._before:
            return None
        self._before[parameter] = self._before[parameter].to(parameter.device)
        return (parameter.detach() - self._before[parameter]).mul_(self._factor)


@torch.no_grad()
def with_radius_of_others(
    perturbation: Perturbation, slots: AscentSlots, others: Change | None
) -> Perturbation:
    """Return a perturbation whose rho is the length of what merging adds to the weights that are perturbed.

    Args:
        perturbation: one without a coefficient is returned as it is.
        slots: that it will displace; only their weights are read.
        others: the change, before the coefficient.

    Raises:
        UserError: nothing is known of the others.
    """
    if perturbation.coefficient is None:
        return perturbation
    if others is None:
        raise UserError(
            "rho: others: nothing is known of the other tasks; saft train and saft run know them, elsewhere"
            " set `others` of the Ascent (`optimizer.ascent.others`) to one of saft.optim.others_radius"
        )
    epsilon = [_of_slot(slot, others(slot.parameter)) for slot in slots]
    length = perturbation.coefficient * float(perturbation.length(slots, epsilon))
    return dataclasses.replace(perturbation, rho=length if LEAST < length < math.inf else LEAST)


def _of_slot(slot: Slot, change: Tensor | None) -> Tensor:
    if change is None:
        return torch.zeros_like(slot.weight)
    local = slot.local(change)
    return (local if slot.rows is None else local.index_select(0, slot.rows)).to(slot.weight)
