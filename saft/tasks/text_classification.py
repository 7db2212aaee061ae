"""Text classification: a table of texts and labels, a zero-shot or linear head, accuracy or macro F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft import config
from saft.config import Positive
from saft.config.ranges import MOST, Range
from saft.model_config import ModelConfig, Pooling
from saft.tasks import TASKS, heads
from saft.tasks.classification import (
    METRICS,
    check_labels_and_prompts,
    descriptions,
    embedding_of_each,
    outcomes,
)
from saft.tasks.examples import Batch, Examples
from saft.tasks.heads import LinearHead, ZeroShotHead
from saft.tasks.metric import Metric
from saft.tasks.outcomes import Outcomes
from saft.tasks.table import Rows, TableConfig, read
from saft.tasks.task import Task, TaskModel, first_tried
from saft.tasks.text_reader import USUAL_LENGTH, BoundTextTask, TextReader

__all__ = ["BoundTextClassification", "TextClassification"]


@TASKS.register("text_classification")
@config.checked
@dataclass(frozen=True)
class TextClassification(Task):
    """Assign one of a list of labels to a text."""

    data: TableConfig
    """The labelled table."""
    labels: dict[str, str]
    """Label in the data -> its words in a prompt; the order is the order of the logits."""
    prompts: list[str] = field(default_factory=lambda: ["{}"])
    """Descriptions of a label, with {} for its words; a label's embedding is the mean over them."""
    head: Literal["zero_shot", "linear"] = "zero_shot"
    """zero_shot: frozen, made from the prompts by the base model. linear: trained with the trunk."""
    scale: Positive = 20.0
    """Inverse temperature of the zero-shot head's cosines."""
    metric_name: Literal["accuracy", "macro_f1", "micro_f1", "matthews"] = "accuracy"
    """What is measured on validation and test; accuracy of several labels: all of them are right."""
    several_labels: bool = False
    """A text may have several labels, or none: a list, or words with commas between; needs head: linear."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = USUAL_LENGTH
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    pooling: Pooling | None = None
    """How token features become one vector per text; null takes that of `model`, or of a
    head that is there, else last of a decoder-only model and mean of another."""
    drop_other_labels: bool = False
    """Leave out rows whose label is not in `labels`, instead of refusing them."""

    def __post_init__(self) -> None:
        check_labels_and_prompts(self.labels, self.head, self.prompts)
        if self.several_labels and self.head != "linear":
            raise ValueError("several_labels: needs head: linear; a zero-shot head chooses one label")
        if self.several_labels and self.metric_name == "matthews":
            raise ValueError("metric_name: matthews needs one label a text; take macro_f1 or micro_f1")
        if self.several_labels and any("," in label for label in self.labels):
            raise ValueError("labels: of several labels none may hold a comma, which stands between them")

    @property
    def classifies(self) -> bool:
        """Where there is one label a text."""
        return not self.several_labels

    @property
    def trained_head(self) -> Mapping[str, Sequence[int]]:
        """A linear head; the others are frozen."""
        return LinearHead.shapes(len(self.labels)) if self.head == "linear" else {}

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextClassification:
        """Bind the task to a model: load its tokenizer; no text is longer than the model's positions."""
        reader = TextReader.of(model, self.max_length, self.pooling, where)
        return BoundTextClassification(self, name, model, where, torch.device(device), reader)

    def rows(self, where: str) -> dict[str, Rows]:
        """Return the rows of each split; see `saft.tasks.table.read`."""
        return read(self.data, list(self.labels), self.drop_other_labels, where, self.several_labels)


@dataclass(frozen=True)
class BoundTextClassification(BoundTextTask[TextClassification]):
    """A text classification on one model; see `saft.tasks.task.BoundTask`."""

    @property
    def metric(self) -> Metric:
        """Accuracy, the share of correct examples, or macro F1; printed in percent."""
        return METRICS[self.task.metric_name]

    @property
    def outputs(self) -> list[str]:
        """The labels."""
        return list(self.task.labels)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, in nats; of several labels the mean over them too."""
        logits = model(batch.inputs)
        if self.task.several_labels:
            return functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return functional.cross_entropy(logits, batch.labels)

    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return what is right, or prediction and label of each example; see `saft.tasks.classification`."""
        labels, several = len(self.task.labels), self.task.several_labels
        return outcomes(model, examples, labels, self.task.metric_name, batch_size, several)

    def facts(self) -> dict[str, Any]:
        """Return the head, the number of labels, the pooling, and where texts are cut."""
        return {
            "head": self.task.head,
            "labels": len(self.task.labels),
            **self.resolved,
        }

    def _check_first_head(self, folder: Path) -> None:
        """Refuse to replace a trained head; say that another one is made by weights that were changed."""
        if self.task.head == "linear":
            raise heads.missing_trained_head(folder, self.name)
        heads.note_made_anew(folder, self.name, "zero-shot")

    def _first_head(self, model: TaskModel) -> nn.Module:
        """Return the head from the model's embeddings of the prompts, or a linear one at zero."""
        if self.task.head == "linear":
            return super()._first_head(model)
        described = descriptions(self.task.prompts, self.task.labels)
        embedded = [self._embedded(texts, model) for texts in described]
        of_each = embedding_of_each(self.task.labels, embedded, self.where)
        return ZeroShotHead(of_each, self.task.scale)

    @torch.no_grad()
    def _embedded(self, texts: list[str], model: TaskModel) -> Tensor:
        options = {"truncation": True, "max_length": self.reader.max_length, "padding": True}
        batch = self.reader.tokenizer(texts, **options, return_tensors="pt")
        device = next(model.trunk.parameters()).device
        with first_tried(model.trunk, self.where):
            features = model.features({name: value.to(device) for name, value in batch.items()})
        return functional.normalize(features, dim=-1)

    def _examples(self, rows: Rows, training: bool) -> Examples:
        number = {label: index for index, label in enumerate(self.task.labels)}
        if self.task.several_labels:
            labels = torch.zeros(len(rows), len(number))
            for row, (_, own) in enumerate(rows):
                labels[row, [number[label] for label in own.split(",") if label]] = 1.0
        else:
            labels = torch.tensor([number[label] for _, label in rows])
        return self.reader.examples([text for text, _ in rows], labels, [row.place for row in rows])
