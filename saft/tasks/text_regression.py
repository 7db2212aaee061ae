"""Text regression: a number for a text or a pair, a linear head, Pearson's or Spearman's correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft import config
from saft.config import FiniteFloat, Positive
from saft.config.ranges import MOST, Range
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig, Pooling
from saft.tasks import TASKS, estimate, heads
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.examples import Batch, Examples
from saft.tasks.heads import LinearHead
from saft.tasks.metric import Metric, Score
from saft.tasks.pooling import TextClassifier
from saft.tasks.table import TableConfig, Text, read_numbers
from saft.tasks.table_source import data_files, distrusted
from saft.tasks.task import Task, TaskModel
from saft.tasks.text_reader import TextReader

__all__ = ["BoundTextRegression", "TextRegression"]

METRICS = {"pearson": Metric("Pearson", "%"), "spearman": Metric("Spearman", "%")}
OUTPUTS = ["value"]


@TASKS.register("text_regression")
@config.checked
@dataclass(frozen=True)
class TextRegression(Task):
    """Tell a number of a text, or of a pair of texts."""

    data: TableConfig
    """The table; its labels are numbers."""
    center: FiniteFloat = 0.0
    """The number that the head's output 0 stands for, and every text has at the first step."""
    spread: Positive = 1.0
    """By how much a head's output of 1 is above the centre; the loss is the squared error in these units."""
    metric_name: Literal["pearson", "spearman"] = "pearson"
    """Which correlation is measured on validation and test."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = 128
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    pooling: Pooling | None = None
    """How token features become one vector per text; null takes that of the model or of its head."""

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextRegression:
        """Bind the task to a model: load its tokenizer; no text is longer than the model's positions."""
        reader = TextReader.of(model, self.max_length, self.pooling, where)
        return BoundTextRegression(self, name, model, where, torch.device(device), reader)

    def check(self, where: str) -> None:
        """Read the table as far as its columns and numbers."""
        self.rows(where)

    def distrusted(self) -> str | None:
        """Return what of the table a checkpoint folder must not ask for."""
        problem = distrusted(self.data)
        return f"data.{problem}" if problem else None

    def files(self, where: str) -> Mapping[str, Path]:
        """Return the table's local files, by their location as it was written."""
        return data_files(self.data, where)

    def rows(self, where: str) -> dict[str, list[tuple[Text, float]]]:
        """Return the rows of each split; see `saft.tasks.table.read_numbers`."""
        return read_numbers(self.data, where)


@dataclass(frozen=True)
class BoundTextRegression(BoundToModel[TextRegression]):
    """A text regression on one model; see `saft.tasks.task.BoundTask`.

    Args:
        reader: how its texts are read.
    """

    trunk_kind = "a reader of texts"
    reader: TextReader

    @property
    def metric(self) -> Metric:
        """Pearson's or Spearman's correlation, printed times 100."""
        return METRICS[self.task.metric_name]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The pooling and the length that the model decided."""
        return self.reader.resolved

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> TextClassifier:
        """Return the trunk with the head that a folder holds, or one at zero to start with."""
        if head_from is None:
            model = self.reader.headless(trunk)
            width: int = trunk.config.hidden_size  # type: ignore[union-attr,assignment]
            model.head = LinearHead(width, 1).to(next(trunk.parameters()).device)
        else:
            folder = local_folder(head_from, "checkpoint")
            stored = self.reader.with_stored_head(trunk, folder, self.name, OUTPUTS, self.where)
            if stored is None:
                raise heads.missing_trained_head(folder, self.name)
            model = stored
        model.classifies = False
        return model

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Write the head and its pooling."""
        assert isinstance(model, TextClassifier)
        heads.save(model.head, folder, self.name, OUTPUTS, model.pooling)

    def features(self, trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled token features, [batch, width]."""
        return self.reader.headless(trunk).features(inputs)

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        r"""Return the mean of :math:`(o - (y - c) / s)^2` over a batch, o being the head's output."""
        wanted = (batch.labels - self.task.center) / self.task.spread
        return functional.mse_loss(model(batch.inputs).squeeze(-1), wanted)

    @torch.inference_mode()
    def score(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Score:
        """Return the correlation of what is told with what is right, with its standard error."""
        was_training = model.training
        model.eval()
        device, told, right = next(model.trunk.parameters()).device, [], []
        for batch in examples.batches(batch_size):
            told.append(model(batch.to(device).inputs).squeeze(-1).float().cpu())
            right.append(batch.labels)
        model.train(was_training)
        measure = estimate.pearson if self.task.metric_name == "pearson" else estimate.spearman
        return measure(torch.cat(told), torch.cat(right))

    def facts(self) -> dict[str, Any]:
        """Return the kind, the pooling, and where texts are cut."""
        return {"kind": "text_regression", **self.reader.resolved}

    def _examples(self, rows: list[tuple[Text, float]], training: bool) -> Examples:
        labels = torch.tensor([number for _, number in rows])
        return self.reader.examples([text for text, _ in rows], labels)
