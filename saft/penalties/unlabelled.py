"""Inputs without their labels, and the draws from them: what a penalty may see of a task's data."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.tasks.examples import Examples
from saft.tasks.task import BoundTask

__all__ = ["Inputs", "Unlabelled", "drawn", "shuffled", "with_random_tokens"]

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Unlabelled:
    """The training inputs of one task, and what the trunk makes of them.

    Args:
        features: (trunk, inputs) -> [examples, width], differentiable; a task's own `features`.
        examples: of the training split; validation and test never come here.
        predictions: (trunk, inputs) -> [tokens, vocabulary], differentiable: the logits of what follows each
            token; None of a model that does not write text.

    Example:
        >>> from saft.tasks import Batch
        >>> batch = lambda at: Batch({"x": torch.ones(len(at), 3)}, torch.zeros(len(at)))
        >>> inputs = Unlabelled(lambda trunk, inputs: trunk(inputs["x"]), Examples([3, 3], batch))
        >>> inputs.inputs([0, 1], torch.device("cpu"))["x"].shape
        torch.Size([2, 3])
    """

    features: Callable[[nn.Module, Inputs], Tensor]
    examples: Examples
    predictions: Callable[[nn.Module, Inputs], Tensor] | None = None

    @classmethod
    def of(cls, task: BoundTask, examples: Examples) -> Unlabelled:
        """Return some examples of a task, with what the trunk makes of them there."""
        return cls(task.features, examples, getattr(task, "predictions", None))

    def __len__(self) -> int:
        return len(self.examples)

    def inputs(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Return the model inputs of some examples; their labels stay behind."""
        batch = self.examples.collate(list(indices))
        return {name: value.to(device) for name, value in batch.inputs.items()}


def drawn(sizes: Mapping[str, int], count: int, seed: int, step: int) -> tuple[str, list[int]]:
    """Return a task, and `count` of its examples, as a step draws them at random, without replacement.

    Args:
        sizes: task -> how many examples there are to draw from.
        count: examples wanted; all where there are fewer.
        seed, step: the draw depends on nothing else.

    Example:
        >>> drawn({"a": 3, "b": 3}, 2, seed=0, step=8) == drawn({"a": 3, "b": 3}, 2, seed=0, step=8)
        True
    """
    draw = random.Random(repr(("penalty", seed, step)))
    name = draw.choice(sorted(sizes))
    return name, draw.sample(range(sizes[name]), min(count, sizes[name]))


def shuffled(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Return the inputs with the tokens of every text in a random order, its first and last where they were.

    Args:
        inputs: with input_ids and attention_mask, [texts, tokens].
        generator: of the CPU.

    Raises:
        UserError: they are not texts.

    Example:
        >>> ids = torch.tensor([[1, 5, 6, 2, 0]])
        >>> mixed = shuffled({"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.Generator())
        >>> sorted(mixed["input_ids"][0, 1:3].tolist()), mixed["input_ids"][0, [0, 3, 4]].tolist()
        ([5, 6], [1, 2, 0])
    """
    ids = _token_ids(inputs, "own_shuffled").clone()
    for row, inner in zip(ids, _inner(inputs), strict=True):
        places = inner.nonzero().squeeze(1)
        order = torch.randperm(len(places), generator=generator).to(places.device)
        row[places] = row[places[order]]
    return {**inputs, "input_ids": ids}


def with_random_tokens(inputs: Inputs, vocabulary: int, generator: torch.Generator) -> Inputs:
    """Return the inputs with other tokens, drawn uniformly, but for the first and the last of every text.

    Args:
        inputs: with input_ids and attention_mask, [texts, tokens].
        vocabulary: number of tokens that there are.
        generator: of the CPU.

    Raises:
        UserError: they are not texts.

    Example:
        >>> ids = torch.tensor([[1, 5, 6, 2, 0]])
        >>> texts = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        >>> with_random_tokens(texts, 9, torch.Generator())["input_ids"][0, [0, 3, 4]].tolist()
        [1, 2, 0]
    """
    ids = _token_ids(inputs, "random_tokens")
    tokens = torch.randint(0, vocabulary, ids.shape, generator=generator).to(ids)
    return {**inputs, "input_ids": torch.where(_inner(inputs), tokens, ids)}


def _token_ids(inputs: Inputs, what: str) -> Tensor:
    if "input_ids" not in inputs or "attention_mask" not in inputs:
        raise UserError(f"penalty: inputs: {what}: needs texts, but this task's inputs are {sorted(inputs)}")
    return inputs["input_ids"]


def _inner(inputs: Inputs) -> Tensor:
    """Return where there is a token that is neither the first nor the last of its text, [texts, tokens]."""
    present = inputs["attention_mask"].bool()
    before, after = present.cumsum(1), present.flip(1).cumsum(1).flip(1)
    return present & (before > 1) & (after > 1)
