"""What tasks do alike whose head is their own: it comes from a checkpoint, or is made as the first one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from saft.files.locations import folder as local_folder
from saft.tasks import heads
from saft.tasks.bound_to_model import BoundToModel, Declared
from saft.tasks.heads import StoredHead
from saft.tasks.task import TaskModel

__all__ = ["BoundWithHead"]


@dataclass(frozen=True)
class BoundWithHead(BoundToModel[Declared]):
    """A task on one model, with a head that is no part of the trunk; see `saft.tasks.task.BoundTask`."""

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """What the logits of the head are, in order, as the head's file says it."""

    @abstractmethod
    def _headless(self, trunk: nn.Module, stored: StoredHead | None = None) -> TaskModel:
        """Return the model without its head.

        Args:
            trunk: from `load_trunk`.
            stored: the head that it will get, if a folder holds it.
        """

    @abstractmethod
    def _first_head(self, model: TaskModel) -> nn.Module:
        """Return the head that the task starts with, for a model that has none."""

    def _check_first_head(self, folder: Path) -> None:
        """Refuse, or note, that a folder without the task's head gets the first one: here it is trained."""
        raise heads.missing_trained_head(folder, self.name)

    def stored_head(self, folder: str | Path) -> StoredHead | None:
        """Return the head that a checkpoint folder holds for this task; None without one.

        Raises:
            UserError: the folder is not there, or the head is damaged, or for other outputs.
        """
        return heads.load(local_folder(folder, "checkpoint"), self.name, self.outputs)

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> TaskModel:
        """Return the trunk with the head that a folder holds, or the one that this task starts with.

        Raises:
            UserError: there is no head and it is a trained one, or the head does not fit the task.
        """
        stored = None if head_from is None else self.stored_head(head_from)
        if head_from is not None and stored is None:
            self._check_first_head(local_folder(head_from, "checkpoint"))
        model = self._headless(trunk, stored)
        head = self._first_head(model) if stored is None else stored.module
        model.head = head.to(next(trunk.parameters()).device)
        model.classifies = self.task.classifies
        return model

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Write the head, and what its logits are, in order."""
        heads.save(model.head, folder, self.name, self.outputs)

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled features, [batch, width]."""
        return self._headless(trunk).features(inputs)
