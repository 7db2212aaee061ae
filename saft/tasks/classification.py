"""What kinds of classification share: their metrics, and how a model is scored by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchmetrics

from saft.tasks.examples import Examples
from saft.tasks.metric import Metric, Score
from saft.tasks.task import TaskModel

__all__ = ["METRICS", "check_labels_and_prompts", "descriptions", "score"]

METRICS = {
    "accuracy": Metric("accuracy", "%"),
    "macro_f1": Metric("macro F1", "%"),
    "micro_f1": Metric("micro F1", "%"),
    "matthews": Metric("Matthews", "%"),
}


def check_labels_and_prompts(labels: Mapping[str, str], head: str, prompts: Sequence[str]) -> None:
    """Check the labels of a task, and the prompts where they make its head.

    Args:
        labels: label in the data -> its words.
        head: name of the head.
        prompts: of the task.

    Raises:
        ValueError: there are too few, or a prompt has no place for a label's words.
    """
    if len(labels) < 2:
        raise ValueError(f"labels: a classification needs at least 2, but has {len(labels)}")
    if head == "zero_shot" and not (prompts and all("{}" in prompt for prompt in prompts)):
        raise ValueError("prompts: each must hold {} where the label's words go")


def descriptions(prompts: Sequence[str], labels: Mapping[str, str]) -> list[list[str]]:
    """Return, for each prompt, the description of every label.

    Example:
        >>> descriptions(["a {} thing", "{}"], {"0": "red", "1": "blue"})
        [['a red thing', 'a blue thing'], ['red', 'blue']]
    """
    return [[prompt.replace("{}", words) for words in labels.values()] for prompt in prompts]


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
