"""Text regression: a number for a text or a pair, a linear head, Pearson's or Spearman's correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from saft import config
from saft.config import FiniteFloat, Positive
from saft.config.ranges import MOST, Range
from saft.model_config import ModelConfig, Pooling
from saft.tasks import TASKS, estimate
from saft.tasks.examples import Batch, Examples
from saft.tasks.heads import LinearHead
from saft.tasks.metric import Metric
from saft.tasks.outcomes import Outcomes
from saft.tasks.table import TableConfig, Text, read_numbers
from saft.tasks.table_split import LabelledRow
from saft.tasks.task import Task, TaskModel
from saft.tasks.text_reader import USUAL_LENGTH, BoundTextTask, TextReader

__all__ = ["BoundTextRegression", "TextRegression"]

METRICS = {"pearson": Metric("Pearson", "%"), "spearman": Metric("Spearman", "%")}


@TASKS.register("text_regression")
@config.checked
@dataclass(frozen=True)
class TextRegression(Task):
    """Predict a number for a text, or for a pair of texts."""

    data: TableConfig
    """The table; its labels are numbers."""
    center: FiniteFloat = 0.0
    """The number that the head's output 0 stands for, and every text has at the first step."""
    spread: Positive = 1.0
    """By how much a head's output of 1 is above the centre; the loss is the squared error in these units."""
    metric_name: Literal["pearson", "spearman"] = "pearson"
    """Which correlation is measured on validation and test."""
    max_length: Annotated[int, Range(whole=True, at_least=3, at_most=MOST)] = USUAL_LENGTH
    """Texts are cut to this many tokens, or to as many as the model has positions."""
    pooling: Pooling | None = None
    """How token features become one vector per text; null takes that of `model`, or of a
    head that is there, else last of a decoder-only model and mean of another."""

    @property
    def classifies(self) -> bool:
        """It gives a number."""
        return False

    @property
    def trained_head(self) -> Mapping[str, Sequence[int]]:
        """A linear head of one number."""
        return LinearHead.shapes(1)

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundTextRegression:
        """Bind the task to a model: load its tokenizer; no text is longer than the model's positions."""
        reader = TextReader.of(model, self.max_length, self.pooling, where)
        return BoundTextRegression(self, name, model, where, torch.device(device), reader)

    def rows(self, where: str) -> dict[str, list[LabelledRow[Text, float]]]:
        """Return the rows of each split; see `saft.tasks.table.read_numbers`."""
        return read_numbers(self.data, where)


@dataclass(frozen=True)
class BoundTextRegression(BoundTextTask[TextRegression]):
    """A text regression on one model; see `saft.tasks.task.BoundTask`."""

    loss_unit = "mean square"

    @property
    def metric(self) -> Metric:
        """Pearson's or Spearman's correlation, printed times 100."""
        return METRICS[self.task.metric_name]

    @property
    def outputs(self) -> list[str]:
        """One number."""
        return ["value"]

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        r"""Return the mean of :math:`(o - (y - c) / s)^2` over a batch, o being the head's output."""
        wanted = (batch.labels - self.task.center) / self.task.spread
        return functional.mse_loss(model(batch.inputs).squeeze(-1), wanted)

    @torch.inference_mode()
    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return prediction and label of each example; their correlation has a standard error."""
        was_training = model.training
        model.eval()
        device, told, right = next(model.trunk.parameters()).device, [], []
        for batch in examples.batches(batch_size):
            told.append(model(batch.to(device).inputs).squeeze(-1).float().cpu())
            right.append(batch.labels)
        model.train(was_training)
        measure = estimate.pearson if self.task.metric_name == "pearson" else estimate.spearman
        return Outcomes((torch.cat(told), torch.cat(right)), measure)

    def _examples(self, rows: list[LabelledRow[Text, float]], training: bool) -> Examples:
        labels = torch.tensor([number for _, number in rows])
        return self.reader.examples([text for text, _ in rows], labels, [row.place for row in rows])
