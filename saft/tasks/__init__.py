"""Data, head and metric of a task, by kind; one file a kind. Tasks themselves are declared in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torchmetrics
from torch import Tensor, nn

from saft import config
from saft.errors import UserError, did_you_mean
from saft.models import Classifier
from saft.registry import Registry
from saft.tasks.examples import Examples, Limits, Splits

__all__ = ["TASKS", "Task", "Examples", "Limits", "Splits", "build"]


class Task(Protocol):
    """What every kind of task offers; a kind is a frozen dataclass whose fields are its YAML keys."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels, in the order of the logits."""

    def load(self, tokenizer: Any, limits: Limits, where: str) -> Splits:
        """Read the data, split it, and turn it into model inputs."""

    def head_for(self, classifier: Classifier, tokenizer: Any) -> nn.Module:
        """Make the head that this task starts with, from the base model."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean training loss of a batch."""

    def metric(self) -> torchmetrics.Metric:
        """Return a new metric; higher is better, and its value is a fraction."""


TASKS: Registry[type[Task]] = Registry("task kind", "saft.tasks")


def build(name: str, mapping: Mapping[str, Any], where: str) -> Task:
    """Make the task that a YAML mapping declares.

    Args:
        name: the task's name, for messages.
        mapping: the mapping below `tasks: NAME:`; `kind` chooses the file in saft/tasks.
        where: the dotted place of the tasks in the config, for example "tasks".

    Raises:
        UserError: the kind is unknown, or a key or value does not belong to it.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}.{name}: must hold the keys of a task, but holds {mapping!r}")
    options = dict(mapping)
    kind = options.pop("kind", None)
    if kind is None:
        raise UserError(
            f"{where}.{name}.kind: is required, but missing; there is: {', '.join(TASKS.names())}"
        )
    if ":" not in str(kind) and kind not in TASKS.names():
        raise UserError(f"{where}.{name}.kind: unknown task kind '{kind}'{did_you_mean(kind, TASKS.names())}")
    return config.parse(TASKS.get(kind), options, "", f"{where}.{name}")
