"""What kinds of classification share: their metrics, and what a model makes of each example."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from saft.progress import note
from saft.tasks import estimate
from saft.tasks.examples import Examples
from saft.tasks.metric import Metric, Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import TaskModel

__all__ = ["METRICS", "check_labels_and_prompts", "descriptions", "embedding_of_each", "outcomes"]

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


def embedding_of_each(labels: Mapping[str, str], by_prompt: Sequence[Tensor], where: str) -> Tensor:
    """Return the embedding of every label, the mean over the prompts; say if two labels have the same.

    A frozen head never gives the second of them: its words, or all of them that the model reads, are those of
    the first.

    Args:
        labels: label in the data -> its words.
        by_prompt: of each prompt the embeddings, each [labels, width].
        where: the place in front of the message.

    Returns:
        [labels, width].
    """
    embedded = torch.stack(list(by_prompt)).mean(0)
    unit, names = functional.normalize(embedded.double(), dim=-1), list(labels)
    alike = (unit @ unit.T > 1 - 1e-9).triu(1).nonzero().tolist()
    if alike:
        a, b = (names[place] for place in alike[0])
        note(
            f"{where}.labels: to the model '{labels[a]}' and '{labels[b]}', the words of {a} and {b}, are "
            f"the same, so that {b} is never predicted; word them apart"
        )
    return embedded


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
        predicted.append(_predictions(logits, several_labels).cpu())
        right.append((batch.labels.int() if several_labels else batch.labels).cpu())
    model.train(was_training)
    if metric_name == "accuracy":
        pairs = zip(predicted, right, strict=True)
        same = [told == label for told, label in pairs]
        each = [rows.all(-1) if several_labels else rows for rows in same]
        return Outcomes((torch.cat(each),), estimate.share)
    measured = functools.partial(_measured, labels=labels, name=metric_name, several_labels=several_labels)
    return Outcomes((torch.cat(predicted), torch.cat(right)), measured)


def _predictions(logits: Tensor, several_labels: bool) -> Tensor:
    """Return what is predicted; -1, which is never right, where a logit is not a number."""
    best = logits.max(-1)
    told = (logits > 0).int() if several_labels else best.indices
    lost = best.values.isnan()
    return told.masked_fill(lost.unsqueeze(-1) if several_labels else lost, -1)


def _measured(predicted: Tensor, right: Tensor, labels: int, name: str, several_labels: bool) -> Score:
    if several_labels:
        predicted = predicted.clamp_min(0)
        hits, told, are = (predicted * right).sum(0), predicted.sum(0), right.sum(0)
        counted = torch.ones(labels, dtype=torch.bool)
    else:
        counts = (predicted[predicted == right], predicted, right)  # the place before the first: no label
        hits, told, are = ((of + 1).bincount(minlength=labels + 1) for of in counts)
        counted = told + are > 0
        counted[0] = False
    hits, told, are = hits.double(), told.double(), are.double()
    if name == "matthews":
        return Score(_matthews(hits.sum(), told, are), None, len(right))
    if name == "micro_f1":
        hits, told, are, counted = hits.sum(), told.sum(), are.sum(), torch.tensor(True)
    f1 = 2 * hits / (told + are).clamp_min(1)
    return Score(float(f1[counted].mean()), None, len(right))


def _matthews(hits: Tensor, told: Tensor, are: Tensor) -> float:
    """Return Matthews' correlation for any number of labels; 0 where predictions or labels do not vary.

    Args:
        hits: how many examples are right.
        told: how often each label is predicted.
        are: how often it is right to do so.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    size = are.sum()
    spread = (size**2 - told @ told) * (size**2 - are @ are)
    return float((hits * size - told @ are) / spread.sqrt()) if spread > 0 else 0.0
