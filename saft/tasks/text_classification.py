"""Text classification: a table of texts and labels, a zero-shot or linear head, accuracy or macro F1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional

from saft.models import Classifier
from saft.tasks import TASKS
from saft.tasks.examples import Batch, Examples, Limits, Splits, permutation
from saft.tasks.heads import LinearHead, ZeroShotHead
from saft.tasks.table import Rows, TableConfig, read

__all__ = ["TextClassification"]


@TASKS.register("text_classification")
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
    scale: float = 20.0
    """Inverse temperature of the zero-shot head's cosines, above 0."""
    metric_name: Literal["accuracy", "macro_f1"] = "accuracy"
    """What is measured on validation and test."""
    max_length: int = 128
    """Texts are cut to this many tokens, at least 3."""
    drop_other_labels: bool = False
    """Leave out rows whose label is not in `labels`, instead of refusing them."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"labels: a classification needs at least 2, but has {len(self.labels)}")
        if self.head == "zero_shot" and not (self.prompts and all("{}" in prompt for prompt in self.prompts)):
            raise ValueError("prompts: each must hold {} where the label's words go")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, but is {self.scale}")
        if self.max_length < 3:
            raise ValueError(f"max_length must be at least 3, but is {self.max_length}")

    def load(self, tokenizer: Any, limits: Limits, where: str) -> Splits:
        """Read the table, draw the training examples, and tokenize what is used."""
        rows = read(self.data, list(self.labels), self.drop_other_labels, where)
        order = permutation(len(rows["train"]), limits.seed, stream=7)[: limits.train]
        return Splits(
            train=self._examples([rows["train"][index] for index in order], tokenizer),
            validation=self._examples(rows["validation"][: limits.validation], tokenizer),
            test=self._examples(_spread(rows["test"], limits.test, self.data.split_seed), tokenizer),
        )

    def head_for(self, classifier: Classifier, tokenizer: Any) -> nn.Module:
        """Make the head, from the base model's embeddings of the prompts, or a linear one at zero."""
        embedded = [
            self._embed([prompt.format(words) for words in self.labels.values()], classifier, tokenizer)
            for prompt in self.prompts
        ]
        if self.head == "linear":
            return LinearHead(embedded[0].shape[-1], len(self.labels))
        return ZeroShotHead(torch.stack(embedded).mean(0), self.scale)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        return functional.cross_entropy(logits, labels)

    def metric(self) -> torchmetrics.Metric:
        """Return a new accuracy (the share of correct examples) or macro F1."""
        options: dict[str, Any] = {"task": "multiclass", "num_classes": len(self.labels)}
        if self.metric_name == "accuracy":
            return torchmetrics.Accuracy(**options, average="micro")
        return torchmetrics.F1Score(**options, average="macro")

    @torch.no_grad()
    def _embed(self, texts: list[str], classifier: Classifier, tokenizer: Any) -> Tensor:
        batch = tokenizer(
            texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        device = next(classifier.trunk.parameters()).device
        embedding = classifier.embed({name: value.to(device) for name, value in batch.items()})
        return functional.normalize(embedding, dim=-1)

    def _examples(self, rows: Rows, tokenizer: Any) -> Examples:
        texts = [text for text, _ in rows]
        options = {"truncation": True, "max_length": self.max_length}
        encoded = tokenizer(texts, **options) if texts else {"input_ids": []}
        number = {label: index for index, label in enumerate(self.labels)}
        labels = torch.tensor([number[label] for _, label in rows])

        def collate(indices: list[int]) -> Batch:
            part = {name: [values[index] for index in indices] for name, values in encoded.items()}
            inputs = tokenizer.pad(part, return_tensors="pt")
            return Batch(dict(inputs), labels[indices])

        return Examples([len(ids) for ids in encoded["input_ids"]], collate)


def _spread(rows: Rows, limit: int | None, seed: int) -> Rows:
    """Return at most `limit` rows: a random sample, since files are often sorted by label."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[index] for index in permutation(len(rows), seed, stream=2)[:limit]]
