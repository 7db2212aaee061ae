"""What kinds of classification share: their metrics, and how a model is scored by them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torchmetrics

from saft.tasks.examples import Examples
from saft.tasks.metric import Metric, Score
from saft.tasks.task import TaskModel

__all__ = ["METRICS", "score"]

METRICS = {
    "accuracy": Metric("accuracy", "%"),
    "macro_f1": Metric("macro F1", "%"),
    "micro_f1": Metric("micro F1", "%"),
    "matthews": Metric("Matthews", "%"),
}


@torch.inference_mode()
def score(
    model: TaskModel,
    examples: Examples,
    labels: int,
    metric_name: str,
    batch_size: int,
    several_labels: bool = False,
) -> Score:
    """Return a metric; of accuracy with its binomial standard error, of the others it is not known.

    Args:
        model: gives logits, [batch, labels]; put into evaluation mode for the duration, then back.
        examples: one split.
        labels: how many there are.
        metric_name: one of `METRICS`.
        batch_size: examples per forward pass.
        several_labels: whether an example has any number of labels: those whose logit is above 0.
    """
    was_training = model.training
    model.eval()
    device = next(model.trunk.parameters()).device
    metric = _measured(labels, metric_name, several_labels).to(device)
    for batch in examples.batches(batch_size):
        batch = batch.to(device)
        logits = model(batch.inputs)
        if several_labels:
            metric.update((logits > 0).int(), batch.labels.int())
        else:
            metric.update(logits, batch.labels)
    model.train(was_training)
    value, count = float(metric.compute()), len(examples)
    known = metric_name == "accuracy" and count > 0
    return Score(value, math.sqrt(value * (1 - value) / count) if known else None, count)


def _measured(labels: int, metric_name: str, several_labels: bool) -> torchmetrics.Metric:
    one: dict[str, Any] = {"task": "multiclass", "num_classes": labels}
    several: dict[str, Any] = {"task": "multilabel", "num_labels": labels}
    match metric_name:
        case "accuracy" if several_labels:
            return torchmetrics.ExactMatch(**several)
        case "accuracy":
            return torchmetrics.Accuracy(**one, average="micro")
        case "matthews":
            return torchmetrics.MatthewsCorrCoef(**one)
        case _:
            options = several if several_labels else one
            return torchmetrics.F1Score(**options, average="macro" if metric_name == "macro_f1" else "micro")
