"""Inputs without their labels, and the draws from them: what a penalty may see of a task's data."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saft.tasks.examples import Examples
from saft.tasks.task import BoundTask

__all__ = ["Inputs", "Unlabelled", "drawn"]

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
