"""What tasks of every kind do alike once they are bound to a model; a kind's file says what is its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import datasets  # noqa: F401 - reads every kind's data: else the first training would wait for its import
import torch
import transformers
from torch import nn

from saft.held_model import start_trunk
from saft.model_config import ModelConfig
from saft.models import load_trunk
from saft.tasks.examples import Examples, Limits, Splits, limited
from saft.tasks.metric import Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import Task, TaskModel

__all__ = ["BoundToModel", "Declared"]


Declared = TypeVar("Declared", bound=Task)


@dataclass(frozen=True)
class BoundToModel(ABC, Generic[Declared]):
    """A task on one model, as far as all kinds are alike; for the whole see `saft.tasks.task.BoundTask`.

    Args:
        task: as it is declared.
        name: the task's name.
        base: the model that was bound.
        where: the place in front of every message.
        device: where trunks and heads are put.
    """

    trunk_kind: ClassVar[str]
    """What the model is loaded as, in words: tasks that differ in it have no trunk in common."""
    trunk_class: ClassVar[str | None] = None
    """The name of the class of transformers that does it; None: the one that gives the folder's backbone."""

    loss_unit: ClassVar[str] = "nats"
    """The unit of the loss; another than a cross-entropy has another."""

    task: Declared
    name: str
    base: ModelConfig
    where: str
    device: torch.device

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The keys that were left open, as the model decided them: none."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what the report says of the task: what the model decided."""
        return dict(self.resolved)

    def examples(self, limits: Limits) -> Splits:
        """Read the data, draw the training examples, and turn what is used into model inputs."""
        rows = limited(self.task.rows(self.where), limits, self.task.data.split_seed)
        return Splits(**{split: self._examples(part, split == "train") for split, part in rows.items()})

    @abstractmethod
    def _examples(self, rows: list[Any], training: bool) -> Examples:
        """Return the rows of a split as examples; `training`: they are learned, not measured on."""

    @abstractmethod
    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return what a model makes of each example; see `saft.tasks.task.BoundTask`.

        Args:
            model: put into evaluation mode for the duration, then back.
            examples: one split.
            batch_size: examples per forward pass.
        """

    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return the metric of a model on examples; NaN of none.

        Args:
            model: put into evaluation mode for the duration, then back.
            examples: one split.
            batch_size: examples per forward pass.
        """
        if not len(examples):
            return Score(math.nan, None, 0)
        return self.outcomes(model, examples, batch_size).score()

    def load_trunk(self, folder: str | Path | None = None, held: bool = False) -> nn.Module:
        """Load a trunk in float32, on the device."""
        load = start_trunk if held or folder is None else load_trunk
        return load(ModelConfig(str(folder or self.base.path)), self.name, self._loaded_as).to(self.device)

    @property
    def _loaded_as(self) -> Any:
        """The class of transformers to load a trunk as; None: the folder's backbone."""
        return self.trunk_class and getattr(transformers, self.trunk_class)

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Do nothing, as where the head is a part of the trunk; a kind with a head of its own writes it."""
