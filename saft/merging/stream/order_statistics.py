"""Exact order statistics of a stream that is never in memory as a whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saft.merging.stream.windows import BlockStream, Sample, values_in_windows

__all__ = ["order_statistics", "passes_of"]

_DIGIT = 16  # bits that a pass counts
_BINS = 1 << _DIGIT
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}

_SMALL = 1 << 16
"""Entries of a row that are kept and sorted at once, which is less work than to count them."""


def passes_of(dtype: torch.dtype, count: int, sampled: bool = False) -> int:
    """Return how many passes order statistics take, all that are asked for at once.

    Args:
        dtype: of the blocks, float32 or float64.
        count: entries of a row of the stream.
        sampled: whether a sample tells where the values lie.

    Example:
        >>> [passes_of(torch.float32, 10**6, sampled) for sampled in (False, True)]
        [2, 1]
    """
    return 1 if count <= _SMALL or sampled else dtype.itemsize * 8 // _DIGIT


def order_statistics(
    blocks: BlockStream[Tensor], ranks: Sequence[int], sample: Sample[Tensor] | None = None
) -> Tensor:
    """Return the values at `ranks` of each row of a stream, to the bit, in memory independent of its length.

    The bits of a float, read as an integer, sort as the float does where it is positive, and the other way
    round where it is negative. A first pass counts the upper 16 bits, which finds the bin of each rank; each
    further pass counts the next 16 within that bin: one more for float32, three for float64.

    With a sample of float32 one pass is enough, unless it misleads: see `values_in_windows`. Then those
    passes follow.

    Args:
        blocks: passes over finite blocks [rows, n], float32 or float64; every pass must meet the same values.
        ranks: positions in ascending order, from 0.
        sample: of the same values; the result does not depend on it.

    Returns:
        [rows, len(ranks)] of the blocks' dtype, on their device; a negative zero comes back as zero.

    Raises:
        ValueError: the stream is empty.

    Example:
        >>> blocks = [torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0]])]
        >>> order_statistics(lambda function: map(function, blocks), (0, 2))
        tensor([[-1.,  3.]])
    """
    if sample is not None and (values := values_in_windows(blocks, ranks, sample)) is not None:
        return values.add_(0.0)
    first = _FirstPass()
    deque(blocks(first.take), maxlen=0)  # goes through them all
    if first.example is None:
        raise ValueError("an empty stream has no statistics")
    small = first.small()
    values = _of_small(small, ranks) if small is not None else _by_digits(blocks, first, ranks)
    # The negative zero sorts just before zero; adding zero makes it one.
    return values.add_(0.0).to(first.example.device)


def _of_small(stream: Tensor, ranks: Sequence[int]) -> Tensor:
    in_place = np.partition(stream.numpy(), list(ranks))
    return torch.from_numpy(in_place[:, list(ranks)])


def _by_digits(blocks: BlockStream[Tensor], first: _FirstPass, ranks: Sequence[int]) -> Tensor:
    assert first.example is not None
    dtype, counts = first.example.dtype, first.counts()
    positive, negative = counts.chunk(2, dim=1)
    wanted = torch.tensor([list(ranks)]).expand(len(counts), -1)
    bins, rest = _locate(torch.cat([negative.flip(1), positive], dim=1), wanted)
    begins = torch.where(bins < _BINS // 2, -1 - bins, bins - _BINS // 2)  # the bits, so far
    for shift in range(_first_shift(dtype) - _DIGIT, -1, -_DIGIT):
        # Ranks of one row that fall into one bin share the histogram of their next digit.
        places = [(row, begin) for row, row_begins in enumerate(begins.tolist()) for begin in row_begins]
        chosen = sorted(set(places))
        counts = _count_within(blocks, chosen, shift)[[chosen.index(place) for place in places]]
        minus = begins.reshape(-1, 1) < 0
        digits, rest = _locate(torch.where(minus, counts.flip(1), counts), rest.reshape(-1, 1))
        digits = torch.where(minus, _BINS - 1 - digits, digits)
        begins = (begins << _DIGIT) | digits.view_as(begins)
    return begins.to(_INTEGERS[dtype]).view(dtype)


def _first_shift(dtype: torch.dtype) -> int:
    """Return by how many bits the uppermost digit is shifted."""
    return dtype.itemsize * 8 - _DIGIT


class _FirstPass:
    """Keeps a small stream; of any other counts the uppermost digits. Several threads may call `take`."""

    def __init__(self) -> None:
        self.example: Tensor | None = None
        self._lock = threading.Lock()
        self._kept: list[Tensor] = []
        self._room = _SMALL
        self._counts = _Counts()

    def take(self, block: Tensor) -> None:
        """Keep a block, or count it."""
        with self._lock:
            if self.example is None:
                self.example = block.new_empty(0)
            kept = block.shape[1] <= self._room
            if kept:
                self._kept.append(block)
            self._room -= block.shape[1]
        if not kept:
            self._count(block)

    def small(self) -> Tensor | None:
        """Return the whole stream, on the CPU, if it is small."""
        return torch.cat([block.cpu() for block in self._kept], dim=1) if self._room >= 0 else None

    def counts(self) -> Tensor:
        """Return the counts of the uppermost digits, int64 [rows, bins]."""
        for block in self._kept:
            self._count(block)
        self._kept = []
        return self._counts.result()

    def _count(self, block: Tensor) -> None:
        upper = (_bits(block) >> _first_shift(block.dtype)).bitwise_and_(_BINS - 1)
        for row, digits in enumerate(upper):
            self._counts.add(row, digits)


def _count_within(blocks: BlockStream[Tensor], chosen: Sequence[tuple[int, int]], shift: int) -> Tensor:
    """Count the digits at `shift` of what begins as in each chosen (row, bits): int64 [chosen, bins]."""
    counts = _Counts()

    def count(block: Tensor) -> None:
        bits: Any = _bits(block)
        if block.device.type == "cpu":
            bits = bits.numpy()  # it compares and selects in a third of torch's time
        upper = bits >> (shift + _DIGIT)
        for at, (row, begin) in enumerate(chosen):
            within = bits[row][upper[row] == begin]
            counts.add(at, torch.as_tensor((within >> shift) & (_BINS - 1)))

    deque(blocks(count), maxlen=0)  # goes through them all
    return counts.result()


class _Counts:
    """Histograms that the threads add to, since whole numbers may be added up in any order.

    Were they collected as results, those that wait would take more memory than all the blocks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, Tensor] = {}

    def add(self, place: int, digits: Tensor) -> None:
        few = len(digits) < _BINS // 8
        counted = digits.long() if few else torch.bincount(digits, minlength=_BINS)
        with self._lock:
            if place not in self._counts:
                self._counts[place] = torch.zeros(_BINS, dtype=torch.int64, device=digits.device)
            if few:
                self._counts[place].scatter_add_(0, counted, torch.ones_like(counted))
            else:
                self._counts[place] += counted

    def result(self) -> Tensor:
        return torch.stack([self._counts[place] for place in sorted(self._counts)]).cpu()


def _bits(values: Tensor) -> Tensor:
    """Return the bits of float32 as int32, of float64 as int64."""
    return values.view(_INTEGERS[values.dtype])


def _locate(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin that holds each rank, and the rank within it."""
    below = counts.cumsum(dim=1)
    bins = torch.searchsorted(below, ranks.contiguous(), right=True)
    before = torch.where(bins > 0, below.gather(1, (bins - 1).clamp(min=0)), 0)
    return bins, ranks - before
