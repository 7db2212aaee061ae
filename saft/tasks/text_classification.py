"""Text classification: a table of texts and labels, a zero-shot or linear head, accuracy or macro F1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft import config
from saft.config import Positive
from saft.config.ranges import MOST, Range
from saft.errors import UserError
from saft.files.checkpoint import HEADS, MANIFEST
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig, Pooling
from saft.models import load_trunk
from saft.progress import note
from saft.tasks import TASKS, heads
from saft.tasks.classification import METRICS, score
from saft.tasks.examples import Batch, Examples, Limits, Splits, limited
from saft.tasks.heads import LinearHead, ZeroShotHead
from saft.tasks.metric import Metric, Score
from saft.tasks.pooling import TextClassifier
from saft.tasks.table import Rows, TableConfig, read
from saft.tasks.table_source import data_files, distrusted
from saft.tasks.task import TaskModel
from saft.tasks.text_examples import cut_length, text_examples
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["BoundTextClassification", "TextClassification"]


@TASKS.register("text_classification")
@config.checked
@dataclass(frozen=True)
class TextClassification:
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
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 128
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    pooling: Pooling | None = None
    """How token features become one vector per text; null takes that of the model or of its head."""
    drop_other_labels: bool = False
    """Leave out rows whose label is not in `labels`, instead of refusing them."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"labels: a classification needs at least 2, but has {len(self.labels)}")
        if self.head == "zero_shot" and not (self.prompts and all("{}" in prompt for prompt in self.prompts)):
            raise ValueError("prompts: each must hold {} where the label's words go")
        if self.several_labels and self.head != "linear":
            raise ValueError("several_labels: needs head: linear; a zero-shot head chooses one label")
        if self.several_labels and self.metric_name == "matthews":
            raise ValueError("metric_name: matthews is of one label a text; take macro_f1 or micro_f1")
        if self.several_labels and any("," in label for label in self.labels):
            raise ValueError("labels: of several labels none may hold a comma, which stands between them")

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextClassification:
        """Bind the task to a model: load its tokenizer; no text is longer than the model's positions."""
        tokenizer = load_tokenizer(model.path)
        longest = cut_length(model, self.max_length, where)
        pooling = self.pooling or model.pooling
        return BoundTextClassification(
            self, name, model, where, torch.device(device), tokenizer, longest, pooling
        )

    def check(self, where: str) -> None:
        """Read the table as far as its columns and labels."""
        self.rows(where)

    def distrusted(self) -> str | None:
        """Return what of the table a checkpoint folder must not ask for."""
        problem = distrusted(self.data)
        return f"data.{problem}" if problem else None

    def files(self, where: str) -> Mapping[str, Path]:
        """Return the table's local files, by their location as it was written."""
        return data_files(self.data, where)

    def rows(self, where: str) -> dict[str, Rows]:
        """Return the rows of each split; see `saft.tasks.table.read`."""
        return read(self.data, list(self.labels), self.drop_other_labels, where, self.several_labels)


@dataclass(frozen=True)
class BoundTextClassification:
    """A text classification on one model; see `saft.tasks.task.BoundTask`.

    Args:
        task: what is classified, and how.
        name: the task's name.
        base: the model that was bound.
        where: the place in front of every message.
        device: where trunks and heads are put.
        tokenizer: the model's.
        max_length: texts are cut to this many tokens.
        pooling: as the task or the model says; None where both leave it to the head.
    """

    task: TextClassification
    name: str
    base: ModelConfig
    where: str
    device: torch.device
    tokenizer: Any
    max_length: int
    pooling: Pooling | None

    @property
    def metric(self) -> Metric:
        """Accuracy, the share of correct examples, or macro F1; printed in percent."""
        return METRICS[self.task.metric_name]

    @property
    def trunk_kind(self) -> str:
        """What the model is loaded as."""
        return "a reader of texts"

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The pooling and the length that the model decided."""
        return {"pooling": self.pooling or "mean", "max_length": self.max_length}

    def examples(self, limits: Limits) -> Splits:
        """Read the table, draw the training examples, and tokenize what is used."""
        rows = limited(self.task.rows(self.where), limits, self.task.data.split_seed)
        return Splits(**{split: self._examples(part) for split, part in rows.items()})

    def load_trunk(self, folder: str | Path | None = None) -> nn.Module:
        """Load a trunk in float32, on the device."""
        return load_trunk(ModelConfig(str(folder or self.base.path)), self.name).to(self.device)

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> TextClassifier:
        """Return the trunk with the head that a folder holds, or the one that this task starts with."""
        device = next(trunk.parameters()).device
        folder = None if head_from is None else local_folder(head_from, "checkpoint")
        stored = None if folder is None else heads.load(folder, self.name, list(self.task.labels))
        if stored is None:
            model = TextClassifier(trunk, nn.Identity(), self.pooling or "mean")
            if folder is not None:
                self._made_anew(folder)
            model.head = self._first_head(model).to(device)
            model.classifies = not self.task.several_labels
            return model
        pooling = self.pooling or stored.pooling or "mean"
        if stored.pooling not in (None, pooling):
            raise UserError(
                f"{self.where}.pooling: is {pooling}, but the head in {folder} was made for {stored.pooling}"
            )
        model = TextClassifier(trunk, stored.module.to(device), pooling)
        model.classifies = not self.task.several_labels
        return model

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Write the head, its labels in order, and its pooling."""
        assert isinstance(model, TextClassifier)
        heads.save(model.head, folder, self.name, list(self.task.labels), model.pooling)

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled token features, [batch, width]."""
        return TextClassifier(trunk, nn.Identity(), self.pooling or "mean").features(inputs)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, in nats; of several labels the mean over them too."""
        logits = model(batch.inputs)
        if self.task.several_labels:
            return functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return functional.cross_entropy(logits, batch.labels)

    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return accuracy, with its binomial standard error, or macro F1, whose error is not known."""
        labels, several = len(self.task.labels), self.task.several_labels
        return score(model, examples, labels, self.task.metric_name, batch_size, several)

    def facts(self) -> dict[str, Any]:
        """Return the kind, the head, the number of labels, the pooling, and where texts are cut."""
        return {
            "kind": "text_classification",
            "head": self.task.head,
            "labels": len(self.task.labels),
            "pooling": self.pooling or "mean",
            "max_length": self.max_length,
        }

    def _made_anew(self, folder: Path) -> None:
        """Refuse to replace a trained head; say that another one is made by weights that were changed."""
        file = folder / HEADS / f"{self.name}.safetensors"
        if self.task.head == "linear":
            raise UserError(f"there is no {file}, and the head of this task is a trained one")
        if (folder / MANIFEST).is_file():
            note(f"there is no {file}; its zero-shot head is made by the weights of {folder} itself")

    def _first_head(self, model: TextClassifier) -> nn.Module:
        """Return the head from the model's embeddings of the prompts, or a linear one at zero."""
        words = list(self.task.labels.values())
        embedded = [
            self._embedded([prompt.replace("{}", word) for word in words], model)
            for prompt in self.task.prompts
        ]
        if self.task.head == "linear":
            return LinearHead(embedded[0].shape[-1], len(words))
        return ZeroShotHead(torch.stack(embedded).mean(0), self.task.scale)

    @torch.no_grad()
    def _embedded(self, texts: list[str], model: TextClassifier) -> Tensor:
        batch = self.tokenizer(
            texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        device = next(model.trunk.parameters()).device
        features = model.features({name: value.to(device) for name, value in batch.items()})
        return functional.normalize(features, dim=-1)

    def _examples(self, rows: Rows) -> Examples:
        number = {label: index for index, label in enumerate(self.task.labels)}
        if self.task.several_labels:
            labels = torch.zeros(len(rows), len(number))
            for row, (_, own) in enumerate(rows):
                labels[row, [number[label] for label in own.split(",") if label]] = 1.0
        else:
            labels = torch.tensor([number[label] for _, label in rows])
        return text_examples(self.tokenizer, [text for text, _ in rows], labels, self.max_length)
