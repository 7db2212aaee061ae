"""A task, and a task bound to a model: its data, inputs, head, loss and metric as one object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saft.errors import as_user_error
from saft.model_config import ModelConfig
from saft.tasks.examples import Batch, Examples, Limits, Splits
from saft.tasks.metric import Metric, Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.table_source import TableSource

__all__ = ["BoundTask", "Task", "TaskModel", "features_of_a_token", "first_tried"]


class TaskModel(nn.Module, ABC):
    """A trunk, which is trained and merged, and a head, which belongs to one task and never is.

    Args:
        trunk: a transformers model.
        head: maps the features, [batch, width], to logits; `nn.Identity` where the trunk gives logits.
    """

    reads_first_token = False
    """Whether the features are those of the first token."""
    classifies = True
    """Whether the softmax of the output is the probabilities of labels, [batch, labels]."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.training = trunk.training  # else a score would put the trunk back into a mode that it was not in
        self.trunk = trunk
        self.head = head

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits, [batch, labels]; the head computes in float32 where the trunk is autocast."""
        features = self.features(inputs)
        device = features.device.type
        if torch.is_autocast_enabled(device):  # in bfloat16 close labels would share one value
            features = features.float()
        with torch.autocast(device, enabled=False):
            logits: Tensor = self.head(features)
        return logits

    @abstractmethod
    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what the head reads: one vector per example, [batch, width]."""


def first_tried(trunk: nn.Module, where: str) -> AbstractContextManager[None]:
    """Tell in one line that a model cannot compute the first inputs that it is given, whatever it raises.

    Args:
        trunk: a transformers model, which computes inside.
        where: the place in front of the message.

    Example:
        >>> with first_tried(nn.Linear(2, 2), "tasks.news") as _:
        ...     nn.Linear(2, 2)(torch.zeros(1, 3))
        Traceback (most recent call last):
        saft.errors.UserError: tasks.news.kind: Linear cannot compute what this kind of task gives it ...
    """
    return as_user_error(
        f"{where}.kind: {type(trunk).__name__} cannot compute what this kind of task gives it (take another "
        "model, or mend its config.json)"
    )


@torch.no_grad()
def features_of_a_token(model: TaskModel, where: str) -> Tensor:
    """Return the features of the shortest text there is, [1, width]: to try a model, and see their width.

    Args:
        model: reads tokens.
        where: the place in front of the message.

    Raises:
        UserError: the model cannot compute them.
    """
    token = torch.ones(1, 1, dtype=torch.long, device=next(model.trunk.parameters()).device)
    with first_tried(model.trunk, where):
        return model.features({"input_ids": token, "attention_mask": token})


class Task(ABC):
    """What a kind of task declares: a frozen dataclass in `TASKS`, whose fields are its YAML keys.

    A kind says its `data`, `bind` and `rows`; one that reads no table overrides the other methods too.
    """

    data: TableSource

    @abstractmethod
    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTask:
        """Bind the task to a model: find its tokenizer or processor, and decide what was left open.

        Args:
            name: the task's name: of its head's file, and in reports.
            model: the model that its trunk is, or starts from; its weights are not read.
            where: the place in front of every message, for example "tasks.reuters".
            device: where trunks and heads are put.

        Raises:
            UserError: the model is not there, or not for this kind of task.
        """

    @abstractmethod
    def rows(self, where: str) -> dict[str, list[Any]]:
        """Read the data, and return "train", "validation" and "test" -> the rows of the split.

        Args:
            where: the place in front of every message.

        Raises:
            UserError: a file, split, column or label is missing.
        """

    def check(self, where: str) -> None:
        """Find what is wrong with the data, without a model; no example of the test split is kept.

        Raises:
            UserError: a file, split, column or label is missing.
        """
        self.rows(where)

    @property
    def classifies(self) -> bool:
        """Whether a model gives the probabilities of labels, of which one is true."""
        return True

    @property
    def trained_head(self) -> Mapping[str, Sequence[int]]:
        """Name -> shape of what is trained of the head, with 1 for the width of the model's features.

        Nothing of a head that is frozen, or a part of the trunk.
        """
        return {}

    def distrusted(self) -> str | None:
        """Return what a checkpoint folder must not ask for, as "key: reason"; None where there is nothing."""
        problem = self.data.distrusted()
        return f"data.{problem}" if problem else None

    def files(self, where: str) -> Mapping[str, Path]:
        """Return the local files that the data are read from, by their location as it was written.

        Raises:
            UserError: a file is missing.
        """
        return self.data.local_files(where)


class BoundTask(Protocol):
    """One task on one model, on one device: everything that training, merging and measuring need of it."""

    @property
    def name(self) -> str:
        """The task's name: of its head's file, and in reports."""

    @property
    def device(self) -> torch.device:
        """Where trunks and heads are put."""

    @property
    def metric(self) -> Metric:
        """What is measured of `outcomes`."""

    @property
    def loss_unit(self) -> str:
        """The unit of `loss`: "nats" of a cross-entropy."""

    @property
    def trunk_kind(self) -> str:
        """What the model is loaded as, in words: tasks that differ in it have no trunk in common."""

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The keys of the task that were left open, as the model decided them; saft.json keeps them."""

    def examples(self, limits: Limits) -> Splits:
        """Read the data, split it, and turn it into model inputs.

        Raises:
            UserError: a file, split, column or label is missing.
        """

    def load_trunk(self, folder: str | Path | None = None, held: bool = False) -> nn.Module:
        """Load a trunk in float32, on the device, in evaluation mode.

        Args:
            folder: a checkpoint folder; None: of the model that was bound.
            held: others of this process will ask for this folder too, so that it is read once for them all
                (`saft.held_model`); the model that was bound always is.

        Raises:
            UserError: the folder is absent or incomplete, or a weight is not finite.
        """

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> TaskModel:
        """Return the trunk with a head of this task, on the trunk's device.

        Args:
            trunk: from `load_trunk`.
            head_from: the checkpoint folder whose head is taken; None: the head that the task starts with,
                made by this trunk. Where the folder holds none, the same is done for a head that is not
                trained, and said on standard error if the folder is a checkpoint of saft.

        Raises:
            UserError: there is no head and it is a trained one, or the head does not fit the task.
        """

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Write the model's head into a checkpoint folder."""

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return what the head would read of a trunk, one vector per example, [batch, width].

        Args:
            trunk: as it is now, in the mode that it is in.
            inputs: of a batch, without labels.
        """

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean training loss over the targets of a batch: its examples, or their tokens.

        Args:
            model: trunk and head.
            batch: on the model's device.

        Returns:
            A scalar, with its gradient.
        """

    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return what a model makes of each example, and the metric of them.

        Args:
            model: put into evaluation mode for the duration, then back.
            examples: one split.
            batch_size: examples per forward pass; the outcomes do not depend on it beyond round-off.
        """

    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return the metric of a model on examples.

        Args:
            model: put into evaluation mode for the duration, then back.
            examples: one split.
            batch_size: examples per forward pass; the score does not depend on it beyond round-off.
        """

    def facts(self) -> dict[str, Any]:
        """Return what the report says of the task, by name: number of labels, head ..."""
