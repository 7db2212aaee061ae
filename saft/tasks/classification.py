"""What kinds of classification share: their metrics, and what a model makes of each example."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
import torchmetrics
from torch import Tensor

from saft.tasks import estimate
from saft.tasks.examples import Examples
from saft.tasks.metric import Metric, Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import TaskModel

__all__ = ["METRICS", "check_labels_and_prompts", "descriptions", "outcomes"]

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
def outcomes(
    model: TaskModel,
    examples: Examples,
    labels: int,
    metric_name: str,
    batch_size: int,
    several_labels: bool = False,
) -> Outcomes:
    """Return prediction and label of each example, for accuracy whether they agree.

    The standard error of accuracy is binomial, of the other metrics it is not known.

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
    predicted, right = list[Tensor](), list[Tensor]()
    for batch in examples.batches(batch_size):
        logits = model(batch.to(device).inputs)
        predicted.append(((logits > 0).int() if several_labels else logits.argmax(-1)).cpu())
        right.append((batch.labels.int() if several_labels else batch.labels).cpu())
    model.train(was_training)
    if metric_name == "accuracy":
        pairs = zip(predicted, right, strict=True)
        same = [told == label for told, label in pairs]
        each = [rows.all(-1) if several_labels else rows for rows in same]
        return Outcomes((torch.cat(each),), estimate.share)
    measured = functools.partial(_measured, labels=labels, name=metric_name, several_labels=several_labels)
    return Outcomes((torch.cat(predicted), torch.cat(right)), measured)


def _measured(predicted: Tensor, right: Tensor, labels: int, name: str, several_labels: bool) -> Score:
    of = torchmetrics.functional.classification
    if name == "matthews":
        value = of.multiclass_matthews_corrcoef(predicted, right, labels)
    else:
        f1 = of.multilabel_f1_score if several_labels else of.multiclass_f1_score
        value = f1(predicted, right, labels, average="macro" if name == "macro_f1" else "micro")
    return Score(float(value), None, len(right))
