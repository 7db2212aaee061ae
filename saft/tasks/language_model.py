"""A model of tokens, and how well it knows a target: what causal and encoder-decoder models share."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.tasks import estimate
from saft.tasks.examples import IGNORED, Batch, Examples, text_mask
from saft.tasks.metric import Metric, Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.pooling import pool
from saft.tasks.task import TaskModel

__all__ = [
    "METRICS",
    "LanguageModel",
    "MakeBatch",
    "Parts",
    "choice",
    "evaluating",
    "exact_match",
    "generated_numbers",
    "number",
    "over_tokens",
    "padded",
    "target_loss",
    "token_mask",
]

METRICS = {
    "loss": Metric("loss", "nats", higher_is_better=False, scale=1.0, digits=3),
    "perplexity": Metric("perplexity", "", higher_is_better=False, scale=1.0, digits=2),
    "token_accuracy": Metric("token accuracy", "%"),
    "exact_match": Metric("exact match", "%"),
    "choice": Metric("accuracy", "%"),
    "choice_per_character": Metric("accuracy", "%"),
    "spearman": Metric("Spearman", "%"),
}

LOGITS = 2**26  # elements of logits that an evaluation holds at once

Parts = tuple[list[int], list[int]]
"""What is given, and what is to follow: token numbers."""
MakeBatch = Callable[[Sequence[Parts]], Batch]


class LanguageModel(TaskModel):
    """A trunk that predicts tokens: its language head is a part of it, trained and merged like the rest.

    Args:
        trunk: a transformers model with a language head.
    """

    classifies = False

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk, nn.Identity())
        self.taken = set(inspect.signature(trunk.forward).parameters)
        self.answers_in_batches: bool | None = None  # as it does alone; None until it is asked

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits, [batch, tokens, vocabulary]: at each token those of the batch's label there."""
        logits: Tensor = self.trunk(**self._arguments(inputs)).logits
        return logits

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the tokens of the last layer, of an encoder-decoder the encoder's."""
        arguments = self._arguments(inputs)
        mask = token_mask(inputs)
        if self.trunk.config.is_encoder_decoder:  # type: ignore[union-attr]
            encoder: Any = self.trunk.get_encoder()  # type: ignore[operator]
            states = encoder(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        else:
            states = self.trunk.base_model(**arguments).last_hidden_state  # type: ignore[operator]
        return pool(states, mask, "mean")

    def _arguments(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        taken: dict[str, Any] = {name: value for name, value in inputs.items() if name in self.taken}
        # A cache is of no use here, and would hide from transformers that a row holds several texts.
        return taken | ({"use_cache": False} if "use_cache" in self.taken else {})


def token_mask(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return where there are tokens of texts, [batch, tokens]: everywhere, if nothing tells padding apart.

    Args:
        inputs: of a batch.

    Example:
        >>> token_mask({"input_ids": torch.tensor([[5, 6]])}).tolist()
        [[1, 1]]
    """
    mask = text_mask(inputs)
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def target_loss(model: TaskModel, batch: Batch) -> Tensor:
    r"""Return :math:`-\frac1n \sum_t \log p(y_t \mid y_{<t}, x)`, over the n targets of a batch, in nats.

    Args:
        model: gives logits, [batch, tokens, vocabulary].
        batch: its labels are [batch, tokens].

    Returns:
        A scalar.
    """
    logits = model(batch.inputs)
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED
    )


def over_tokens(model: LanguageModel, examples: Examples, batch_size: int, name: str) -> Outcomes:
    """Return the sums for loss, perplexity or token accuracy over all targets, each given those before it.

    Args:
        model: in evaluation mode.
        examples: one split.
        batch_size: examples per forward pass, at most.
        name: "loss", "perplexity" or "token_accuracy".
    """
    sums = [_sums(model, batch) for batch in _batches(model, examples, batch_size)]
    log_p, right, counts = (torch.cat(part) for part in zip(*sums, strict=True))
    if name == "token_accuracy":
        return Outcomes((right, counts), estimate.ratio)
    return Outcomes((-log_p, counts), estimate.ratio if name == "loss" else _perplexity)


def choice(
    model: LanguageModel, examples: Examples, batch_size: int, parts: Callable[[Batch], list[Parts]],
    make_batch: MakeBatch, per_character: bool,
) -> Outcomes:  # fmt: skip
    r"""Return whether the right one of the answers that an example may have is the likeliest.

    .. math:: \hat a = \arg\max_a \sum_t \log p(a_t \mid a_{<t}, x), \quad \text{or of that sum over the }
       \text{characters of } a

    The sum is over all tokens of an answer as it is learned, with its end. Of equals the first is taken.

    Args:
        model: in evaluation mode.
        examples: with `choices`.
        batch_size: answers per forward pass, at most.
        parts: gives what a batch was made of.
        make_batch: makes a batch of such parts.
        per_character: whether long answers are not to have less chance than short ones.
    """
    right = list[bool]()
    for indices in examples.order(batch_size):
        candidates = [examples.choices[index] for index in indices]
        made_of = parts(examples.collate(indices))
        pairs = [own.after(given) for own, (given, _) in zip(candidates, made_of, strict=True)]
        log_p = _log_p(model, list(itertools.chain(*pairs)), batch_size, make_batch)
        each = torch.split(log_p, list(map(len, pairs)))
        for own, own_pairs, scores in zip(candidates, pairs, each, strict=True):
            worth = scores / torch.tensor(own.characters) if per_character else scores
            best = int(worth.argmax())
            right.append(own_pairs[best] == own_pairs[own.right] and not bool(worth[best].isnan()))
    return Outcomes((torch.tensor(right),), estimate.share)


def _log_p(model: LanguageModel, pairs: Sequence[Parts], batch_size: int, make_batch: MakeBatch) -> Tensor:
    """Return log p of what follows in each pair, [pairs]."""
    sums = []
    for start in range(0, len(pairs), batch_size):
        batch = make_batch(pairs[start : start + batch_size]).to(_device(model))
        sums += [_sums(model, part)[0] for part in _small(model, batch)]
    return torch.cat(sums)


def exact_match(pairs: Sequence[tuple[str, str]]) -> Outcomes:
    """Return whether what was generated is the target, white space at both ends left out.

    Example:
        >>> exact_match([(" yes", "yes"), ("yes or no", "no")]).score().value
        0.5
    """
    right = [generated.strip() == target.strip() for generated, target in pairs]
    return Outcomes((torch.tensor(right),), estimate.share)


def generated_numbers(pairs: Sequence[tuple[str, str]]) -> Outcomes:
    """Return the numbers that were generated, for Spearman's correlation; what holds none counts as 0.

    Example:
        >>> generated_numbers([("3.2", "3"), ("about 1", "1"), ("none", "0.5")]).score().value
        1.0
    """
    read = torch.tensor([[number(text) or 0.0 for text in pair] for pair in pairs], dtype=torch.float64)
    return Outcomes((read[:, 0], read[:, 1]), estimate.spearman)


def padded(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Return rows of numbers as one tensor, [rows, longest].

    Args:
        rows: at least one.
        value: that fills up.
        left: whether it stands before the row, and not behind it.

    Example:
        >>> padded([[1, 2], [3]], 0, left=True).tolist()
        [[1, 2], [0, 3]]
    """
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if left else [*row, *f] for row, f in zip(rows, fill, strict=True)])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside, without gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _batches(model: LanguageModel, examples: Examples, batch_size: int) -> Iterator[Batch]:
    for batch in examples.batches(batch_size):
        yield from _small(model, batch.to(_device(model)))


def _small(model: LanguageModel, batch: Batch) -> Iterator[Batch]:
    """Yield parts of a batch whose logits fit the memory."""
    vocabulary = model.trunk.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return batch.split(max(1, LOGITS // (batch.labels.shape[1] * vocabulary)))


def _sums(model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p of the targets, how many are the likeliest, and how many there are; each [batch]."""
    logits, counted = model(batch.inputs).float(), batch.labels != IGNORED
    labels = batch.labels.where(counted, 0)
    log_p = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    best = logits.max(-1)
    right = (best.indices == labels) & counted & ~best.values.isnan()
    return (log_p * counted).sum(1).cpu(), right.sum(1).cpu(), counted.sum(1).cpu()


def _perplexity(nats: Tensor, counts: Tensor) -> Score:
    loss = estimate.ratio(nats, counts)
    value = float(torch.tensor(loss.value).exp())
    error = None if loss.standard_error is None else value * loss.standard_error
    return Score(value, error, loss.examples)


def _device(model: LanguageModel) -> torch.device:
    return next(model.trunk.parameters()).device


def number(text: str) -> float | None:
    """Return the first number in a text; None if there is none.

    Example:
        >>> number("about -2.5 or 3"), number(".5"), number("1e-05"), number("none")
        (-2.5, 0.5, 1e-05, None)
    """
    match = re.search(r"-?(\d+(\.\d+)?|\.\d+)([eE][-+]?\d+)?", text)
    return float(match[0]) if match else None
