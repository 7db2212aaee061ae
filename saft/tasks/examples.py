"""Examples ready for a model, the three splits of a task, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

import torch
from torch import Tensor

__all__ = [
    "IGNORED",
    "Batch",
    "Candidates",
    "Examples",
    "Limits",
    "Splits",
    "TrainingOrder",
    "limited",
    "permutation",
    "text_mask",
]

T = TypeVar("T")

IGNORED = -100
"""The label of what is not learned, such as padding; as in torch's cross-entropy."""


@dataclass(frozen=True)
class Batch:
    """A batch of model inputs and labels.

    Args:
        inputs: what the trunk's forward takes, each [batch, ...].
        labels: [batch], or [batch, tokens]; `IGNORED` where nothing is learned, if these are whole numbers.

    Example:
        >>> batch = Batch({"input_ids": torch.zeros(3, 5)}, torch.tensor([0, 1, IGNORED]))
        >>> [len(part) for part in batch.split(2)], int(batch.targets)
        ([2, 1], 2)
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def targets(self) -> Tensor:
        """How many labels there are to learn, 0-dim: the loss is the mean over them."""
        if self.labels.is_floating_point():  # any number may be learned, -100 too
            return self.labels.new_tensor(self.labels.numel(), dtype=torch.long)
        return (self.labels != IGNORED).sum()

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, size: int | None) -> Iterator[Batch]:
        """Yield micro-batches of at most `size` examples; None yields the batch itself."""
        step = size or max(1, len(self))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield Batch({name: value[part] for name, value in self.inputs.items()}, self.labels[part])

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; a copy to a GPU is not waited for."""
        goes_on = torch.device(device).type == "cuda"
        moved = {name: value.to(device, non_blocking=goes_on) for name, value in self.inputs.items()}
        return Batch(moved, self.labels.to(device, non_blocking=goes_on))

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a GPU can copy by itself; a loader calls it."""
        inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        return Batch(inputs, self.labels.pin_memory())


def text_mask(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return where a batch has texts and not padding, [batch, tokens]; None where it has no such mask.

    Args:
        inputs: of the batch. Packed rows have no attention mask, which would hide where one text ends.

    Example:
        >>> text_mask({"input_ids": torch.tensor([[5, 0]]), "is_text": torch.tensor([[1, 0]])})
        tensor([[1, 0]])
    """
    return inputs.get("attention_mask", inputs.get("is_text"))


@dataclass(frozen=True)
class Candidates:
    """The answers that an example may have.

    Args:
        tokens: of each, as they are learned.
        characters: of each.
        right: number of the right one, from 0.
        given: what is given before each; empty where that is the example's own before all.

    Example:
        >>> Candidates([[5], [6]], [1, 1], right=0).after([2, 3])
        [([2, 3], [5]), ([2, 3], [6])]
    """

    tokens: list[list[int]]
    characters: list[int]
    right: int
    given: list[list[int]] = field(default_factory=list)

    def after(self, given: list[int]) -> list[tuple[list[int], list[int]]]:
        """Return each answer with what is given before it.

        Args:
            given: before the example's own answer.
        """
        return list(zip(self.given or [given] * len(self.tokens), self.tokens, strict=True))


@dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Args:
        lengths: cost of each example (its number of tokens); batches for evaluation are sorted by it.
        collate: makes a `Batch` of the examples at these indices.
        varied: the same for a training batch, of inputs that vary from step to step: (indices, step, seed) ->
            batch, by draws that depend on nothing else; None where they do not.
        is_costly: whether a batch takes so long that processes of their own should make it, as of images.
        whole: index of an example -> the tokens of its whole answer, where its batch has it cut.
        choices: the answers that each example may have, where one of them is to be chosen; else empty.
    """

    lengths: list[int]
    collate: Callable[[list[int]], Batch]
    varied: Callable[[list[int], int, int], Batch] | None = None
    is_costly: bool = False
    whole: Mapping[int, list[int]] = field(default_factory=dict)
    choices: Sequence[Candidates] = ()

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, indices: Sequence[int]) -> Examples:
        """Return some of the examples, for evaluation.

        Args:
            indices: of the examples, each at most once.
        """
        return Examples(
            [self.lengths[index] for index in indices],
            lambda chosen: self.collate([indices[place] for place in chosen]),
            is_costly=self.is_costly,
            whole={place: self.whole[index] for place, index in enumerate(indices) if index in self.whole},
            choices=[self.choices[index] for index in indices] if self.choices else (),
        )

    def order(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the indices of each of `batches`."""
        order = sorted(range(len(self)), key=lambda index: (-self.lengths[index], index))
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every example once, longest first, so that little is padded; the order never changes."""
        yield from map(self.collate, self.order(batch_size))

    def training_batch(self, indices: list[int], step: int, seed: int) -> Batch:
        """Return the batch that a training step learns from.

        Args:
            indices: of the examples.
            step: number of the optimizer step, from 0.
            seed: of what varies from step to step.
        """
        return self.collate(indices) if self.varied is None else self.varied(indices, step, seed)

    def training_order(self, batch_size: int, steps: int, seed: int) -> TrainingOrder:
        """Return the indices of every training batch; see `TrainingOrder`.

        Args:
            batch_size: examples of a batch.
            steps: number of batches.
            seed: of the permutations.
        """
        return TrainingOrder(len(self), batch_size, steps, seed)


@dataclass(frozen=True)
class TrainingOrder(Sequence[list[int]]):
    """The indices of every training batch: epoch after epoch, each a new permutation.

    The order depends only on the seed, so a resumed run takes it up at any step. A batch may span two
    epochs: every batch is full. Nothing is kept but the permutations of the last two epochs.

    Args:
        size: number of examples, at least 1.
        batch_size: examples of a batch.
        steps: number of batches.
        seed: of the permutations.

    Example:
        >>> [sorted(batch) for batch in TrainingOrder(size=4, batch_size=4, steps=2, seed=0)]
        [[0, 1, 2, 3], [0, 1, 2, 3]]
    """

    size: int
    batch_size: int
    steps: int
    seed: int
    _epochs: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.steps

    @overload
    def __getitem__(self, step: int) -> list[int]: ...

    @overload
    def __getitem__(self, step: slice) -> list[list[int]]: ...

    def __getitem__(self, step: int | slice) -> list[int] | list[list[int]]:
        """Return the indices of the batch of a step, numbered from 0."""
        if isinstance(step, slice):
            return [self[number] for number in range(*step.indices(self.steps))]
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        first = step * self.batch_size
        return [self._epoch(at // self.size)[at % self.size] for at in range(first, first + self.batch_size)]

    def _epoch(self, number: int) -> list[int]:
        if number not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[number] = permutation(self.size, self.seed, number)
        return self._epochs[number]


@dataclass(frozen=True)
class Splits:
    """The three disjoint splits of a task."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Limits:
    """How many examples of each split are used; None uses all.

    Args:
        train: training examples, drawn with `seed` after validation was split off.
        validation: validation examples, the same for every seed.
        test: test examples, the same for every seed.
        seed: draws the training examples.

    Example:
        >>> rows = {"train": [1, 2, 3], "validation": [4], "test": [5, 6]}
        >>> {split: len(part) for split, part in limited(rows, Limits(train=2, test=1), split_seed=0).items()}
        {'train': 2, 'validation': 1, 'test': 1}
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    seed: int = 0


def limited(rows: Mapping[str, list[T]], limits: Limits, split_seed: int) -> dict[str, list[T]]:
    """Return the rows that are used: the limits' seed draws those of training, no seed the others.

    Args:
        rows: {"train", "validation", "test"} -> rows; validation rows are in random order.
        limits: how many.
        split_seed: draws the test rows, since files are often sorted by label.
    """
    train, test = rows["train"], rows["test"]
    drawn = permutation(len(train), limits.seed, stream=7)[: limits.train]
    if limits.test is not None and limits.test < len(test):
        test = [test[index] for index in permutation(len(test), split_seed, stream=2)[: limits.test]]
    return {
        "train": [train[index] for index in drawn],
        "validation": rows["validation"][: limits.validation],
        "test": test,
    }


def permutation(size: int, seed: int, stream: int = 0) -> list[int]:
    """Return a permutation of range(size) that depends on nothing but its arguments.

    Args:
        size: at least 0.
        seed: of the experiment.
        stream: tells apart what is drawn by one seed.

    Example:
        >>> sorted(permutation(4, seed=0))
        [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + stream)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
