"""What a merge method is given: a part of one tensor in every task, and random numbers that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from saft.merging.inputs.factors import Factors

__all__ = ["Block"]

_WORDS = 8  # of 32 bits, that Philox gives for each value of its counter


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

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_vectors)

    def uniform(self) -> Tensor:
        """Return a random number in [0, 1) for each entry, of the shape, dtype and device of `task_vectors`.

        Each is a function of the seed, the tensor's name, the task's place and the entry's place only
        (Philox, a counter-based generator): so neither the cutting into blocks, nor threads, nor the order
        of the work changes it.
        """
        count = self.base.numel()
        streams = [f"{self.seed}\0{self.name}\0{task}" for task in range(self.tasks)]
        drawn = torch.empty(self.tasks, count, dtype=torch.float32)
        for row, stream in zip(drawn, streams, strict=True):
            row.copy_(torch.from_numpy(_bits(stream, self.start, count)))
        return drawn.mul_(2**-24).view(self.task_vectors.shape).to(self.task_vectors)


def _bits(stream: str, start: int, count: int) -> np.ndarray:
    """Return 24 random bits for each entry from `start` on, as int32, of the stream called `stream`."""
    key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=16).digest(), "little")
    skipped, offset = divmod(start, _WORDS)
    generator = np.random.Philox(key=key).advance(skipped)
    # Raw bits: NumPy keeps them the same in every version, which it does not promise of its distributions.
    raw = np.asarray(generator.random_raw((offset + count + 1) // 2), dtype="<u8")
    bits = raw.view("<u4")[offset : offset + count]
    return (bits >> 8).view(np.int32)
