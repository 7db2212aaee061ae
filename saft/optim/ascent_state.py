"""What a checkpoint holds of an ascent, and how one goes on from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saft.errors import UserError
from saft.optim.perturbations.base import Perturbation

__all__ = ["restored", "saved"]


def saved(
    perturbation: Perturbation, step: int, memory: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Args:
        perturbation: as it is now.
        step: number of optimizer steps taken.
        memory: position of a parameter -> name -> what the perturbation remembers, of the parameter's shape.

    Returns:
        Plain values and tensors; `rho` is None as long as it is still to be found.
    """
    # A plain number: of NumPy's, torch.load refuses to read the checkpoint again.
    rho = float(perturbation.rho) if perturbation.rise is None else None
    return {"perturbation": type(perturbation).__name__, "step": step, "memory": memory, "rho": rho}


def restored(perturbation: Perturbation, state: Mapping[str, Any]) -> Perturbation:
    """Return a perturbation with the radius that was found before, where it has to find one.

    Args:
        perturbation: as the user made it.
        state: from `saved`.

    Raises:
        UserError: the state is another perturbation's and holds what that one remembered.
    """
    other, mine = state["perturbation"], type(perturbation).__name__
    if other != mine and state["memory"]:
        raise UserError(
            f"the checkpoint holds what {other} remembered, but this optimizer has {mine}: construct it"
            " with the same perturbation, or load only the base optimizer's state"
        )
    if perturbation.rise is None or other != mine or state.get("rho") is None:
        return perturbation
    return dataclasses.replace(perturbation, rho=float(state["rho"]), rise=None)
