"""Random numbers of a perturbation, which depend on its seed and the number of the step alone."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from saft.optim.slots import Slot

__all__ = ["INTEGERS", "Generators", "seed_of"]

INTEGERS = 1 << 16
"""How many integers `Generators.integers` draws from."""


class Generators:
    """A stream of random numbers for each device, the same on every replica, another on each shard.

    Args:
        *key: what the numbers depend on: seed, number of the step, purpose.

    Example:
        >>> slot = Slot(torch.zeros(2), torch.zeros(2), torch.zeros(2))
        >>> one, same = (torch.rand(2, generator=Generators(0, 7).of(slot)) for _ in range(2))
        >>> bool((one == same).all())
        True
    """

    def __init__(self, *key: object) -> None:
        self._key = key
        self._generators: dict[tuple[torch.device, tuple[int, ...]], torch.Generator] = {}

    def integers(self, slot: Slot, size: int) -> Tensor:
        """Return integers of 16 bits, shape [size], all equally likely: -32768 ... 32767.

        A random number of 64 bits, which takes longest, is four of them.
        """
        words = torch.empty(-(-size // 4), dtype=torch.int64, device=slot.buffer.device)
        words.random_(-(2**63), None, generator=self.of(slot))
        return words.view(torch.int16)[:size]

    def of(self, slot: Slot) -> torch.Generator:
        """Return the stream for one parameter: it goes on from one slot to the next."""
        place = (slot.buffer.device, slot.shard)
        if place not in self._generators:
            self._generators[place] = torch.Generator(slot.buffer.device)
            self._generators[place].manual_seed(seed_of(*self._key, *slot.shard))
        return self._generators[place]


def seed_of(*key: object) -> int:
    """Return a seed of 63 bits that depends on all parts of the key.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    return random.Random(repr(key)).getrandbits(63)
