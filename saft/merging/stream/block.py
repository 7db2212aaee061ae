"""What a merge method is given: a part of one tensor in every task, and random numbers that belong to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from saft.merging.inputs.factors import Factors
from saft.merging.inputs.tensor_names import unwrapped

__all__ = ["Block"]

_WORD = 4  # bytes of random bits for each entry


@dataclass(frozen=True)
class Block:
    """A part of one tensor, in the base and in every task.

    A method may not change what a block holds.

    Args:
        task_vectors: float32, or float64 on request, [n_tasks, n]; [n_tasks, *shape] for a method that takes
            whole tensors.
        base: the base's weights, of the same dtype and on the same device, [n] or [*shape].
        name: of the tensor.
        start: place of the first element in the flattened tensor, from 0.
        seed: of the merge.
        statistics: what was collected from data for this tensor, one row a task: [n_tasks, ...], by its
            name; empty for a method that needs no data.
        size: elements of the whole tensor, for a method that weighs tensors; None: those of this block.
        factors: of each task's LoRA adapter, for a method that merges adapters; empty for a tensor that no
            adapter changes.
        in_files: the tensor's name in files, by which random numbers are drawn; None: `name`.

    Example:
        >>> block = Block(torch.zeros(2, 3), torch.zeros(3), "weight", seed=1)
        >>> later = Block(torch.zeros(2, 2), torch.zeros(2), "weight", start=1, seed=1)
        >>> block.uniform()[:, 1:].equal(later.uniform())
        True
    """

    task_vectors: Tensor
    base: Tensor
    name: str = ""
    start: int = 0
    seed: int = 0
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    size: int | None = None
    factors: tuple[Factors, ...] = ()
    in_files: str | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_vectors)

    def uniform(self) -> Tensor:
        """Return a random number in [0, 1) for each entry, of the shape, dtype and device of `task_vectors`.

        Each is a function of the seed, the tensor's name, the task's place and the entry's place only: so
        neither the cutting into blocks, nor threads, nor the order of the work changes it. It is the upper
        24 bits of a word of BLAKE3's output for the first three, which is as long as one likes; the place of
        the entry is that of the word.
        """
        drawn = torch.empty(self.tasks, self.base.numel(), dtype=torch.float32)
        for row, words in zip(drawn, self._words(), strict=True):
            row.copy_(torch.from_numpy((words >> 8).view(np.int32)))
        return drawn.mul_(2**-24).view(self.task_vectors.shape).to(self.task_vectors)

    def kept(self, probability: float) -> Tensor:
        """Return 1 for each entry whose `uniform` number is less than a probability, and 0 for the others.

        Args:
            probability: in (0, 1].

        Returns:
            Of the shape, dtype and device of `task_vectors`.

        Example:
            >>> block = Block(torch.zeros(2, 3), torch.zeros(3), "weight", seed=1)
            >>> block.kept(0.5).equal((block.uniform() < 0.5).float())
            True
        """
        kept = np.empty((self.tasks, self.base.numel()), dtype=bool)
        below = max(math.ceil(np.float32(probability) * 2**24), 1)  # none of float32 is as small as some
        greatest = np.uint32((below << 8) - 1)
        for row, words in zip(kept, self._words(), strict=True):
            np.less_equal(words, greatest, out=row)
        bytes_kept = torch.from_numpy(kept.view(np.uint8))  # torch takes six times as long over booleans
        return bytes_kept.view(self.task_vectors.shape).to(self.task_vectors)

    def _words(self) -> Iterator[np.ndarray]:
        """Yield 32 random bits for each entry of the block, task by task."""
        name = unwrapped(self.in_files or self.name)  # the bits of a compiled model are those of the model
        for task in range(self.tasks):
            stream = blake3(f"{self.seed}\0{name}\0{task}".encode())
            drawn = stream.digest(_WORD * self.base.numel(), seek=_WORD * self.start)
            yield np.frombuffer(drawn, dtype="<u4")
