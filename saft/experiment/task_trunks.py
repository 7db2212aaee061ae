"""The trunk of every task at any scaling coefficient, from one merge that keeps a part per task."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from saft.experiment.scaled_trunk import ScaledTrunk
from saft.merging.outputs.parts import kept_of
from saft.merging.per_task import PerTaskMethod, PerTaskParts
from saft.merging.plan import Plan

__all__ = ["TaskTrunks"]


class TaskTrunks:
    """A trunk that can be set to the model of any task, at any scaling coefficient.

    Held is what `saft merge` would write of the tasks: what they share, and the part of each, so that many
    tasks take little more memory than one. The weights are, to the bit, those of `saft.load_task` from that
    folder.

    Args:
        scaled: the trunk, at the base's weights; is changed in place.
        plan: of a merge by a method that keeps a part per task, from `check`.
    """

    def __init__(self, scaled: ScaledTrunk, plan: Plan) -> None:
        self._scaled = scaled
        self._tasks = list(plan.models)
        self._method = cast(PerTaskMethod, plan.method)
        self._shapes = {name: plan.layout[name][1] for name in plan.merged}
        blocks: dict[str, list[PerTaskParts]] = {}
        for name, kept in kept_of(plan, self._method):
            blocks.setdefault(name, []).append(kept)
        self._kept = {name: self._whole(name, of_tensor) for name, of_tensor in blocks.items()}

    def by(self, value: float, task: str) -> nn.Module:
        """Return the trunk, set to the model of a task at this scaling coefficient.

        Args:
            value: the scaling coefficient.
            task: its name in the merge.
        """
        row = self._tasks.index(task)
        self._scaled.take({name: self._vector(name, row) for name in self._kept})
        return self._scaled.by(value)

    def _vector(self, name: str, row: int) -> Tensor:
        kept = self._kept[name]
        part = {piece: rows[row] for piece, rows in kept.parts.items()}
        return self._method.restored(self._shapes[name], kept.vector, part, kept.rescalers[row].item())

    def _whole(self, name: str, blocks: list[PerTaskParts]) -> PerTaskParts:
        """Return what is kept of a tensor, in one piece and in the dtypes of the files."""
        layout = self._method.layout(self._shapes[name])
        first = blocks[0]
        vector = None
        if first.vector is not None:
            vector = torch.cat([cast(Tensor, kept.vector).reshape(-1) for kept in blocks]).float()
        parts = {
            piece: torch.cat([kept.parts[piece] for kept in blocks], dim=1).to(layout[piece][0])
            for piece in first.parts
        }
        return PerTaskParts(vector, parts, first.rescalers)
