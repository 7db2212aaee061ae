"""Order statistics in one pass: a sample tells in which windows they lie, and only there all bits count."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["BlockStream", "Sample", "values_in_windows"]

T = TypeVar("T")
B = TypeVar("B", covariant=True)

_STEP = 1 << 16
"""Floats that differ only in the lower half of their bits: windows are made of such steps."""
_MOST = 256
"""Steps of all windows together, each of which takes a quarter of a mebibyte of counters."""
_PIECE = 1 << 15
"""Entries added to the counters at once on a CPU: each of many threads keeps the memory that it takes."""
_DEVIATIONS = (6.0, 4.0, 2.0)
"""Standard deviations of a random sample that a window reaches to both sides: the first that fits."""


class BlockStream(Protocol[B]):
    """A stream that can be gone over again: each call applies a function to every block of it."""

    def __call__(self, function: Callable[[B], T]) -> Iterable[T]:
        """Return the results in the order of the blocks; they may be computed several at a time."""


@dataclass(frozen=True)
class Sample(Generic[B]):
    """A small part of a stream, drawn evenly from all of it.

    Args:
        blocks: passes over that part.
        count: entries of a row of the whole stream.
    """

    blocks: BlockStream[B]
    count: int


def values_in_windows(
    blocks: BlockStream[Tensor], ranks: Sequence[int], sample: Sample[Tensor]
) -> Tensor | None:
    """Return the values at `ranks` of each row after one pass; None where the sample misleads.

    The pass counts what lies below a window, and how often each float in it occurs. So a rank that falls into
    its window is found to the bit. The first and the last rank need none: their values are looked for.

    Args:
        blocks: passes over finite blocks, float32 [rows, n]; of another dtype it returns None.
        ranks: positions in ascending order, from 0.
        sample: of the same values.

    Returns:
        float32 [rows, len(ranks)] on the blocks' device; a zero may be a negative one.

    Example:
        >>> values = torch.arange(1, 1001.0)[None]
        >>> whole = lambda function: [function(values)]
        >>> values_in_windows(whole, (0, 499), Sample(whole, 1000))
        tensor([[  1., 500.]])
    """
    blocks_of_sample = list(sample.blocks(lambda block: block))
    drawn = torch.cat(blocks_of_sample, dim=1).cpu()
    last = sample.count - 1
    inner = [rank for rank in ranks if 0 < rank < last]
    windows = _windows(drawn, inner, sample.count) if inner and drawn.numel() else []
    if drawn.dtype != torch.float32 or len(windows) < len(inner) * len(drawn):
        return None
    counting = _Pass(windows, sample.count, bounds=len(inner) < len(ranks))
    deque(blocks(counting.take), maxlen=0)  # goes through them all
    if counting.seen != sample.count:
        return None
    columns = {0: counting.least, last: counting.greatest}
    for at, rank in enumerate(inner):
        places = range(at, len(windows), len(inner))  # of the rows, in order
        column = [bits for place in places if (bits := counting.bits_at(place, rank)) is not None]
        if len(column) < len(drawn):
            return None
        columns[rank] = torch.tensor(column, dtype=torch.int32).view(torch.float32)
    return torch.stack([columns[rank] for rank in ranks], dim=1).to(blocks_of_sample[0])


@dataclass(frozen=True)
class _Window:
    """The floats of one row whose bits, as an integer with sign, are from `low` to `low + size - 1`."""

    row: int
    low: int
    size: int

    @property
    def is_negative(self) -> bool:
        return self.low < 0


def _windows(sample: Tensor, ranks: Sequence[int], count: int) -> list[_Window]:
    """Return a window for each row and, within it, each rank.

    Args:
        sample: of the stream, float32 [rows, n], on the CPU.
        ranks: positions in the stream, neither the first nor the last.
        count: entries of a row of the stream.
    """
    size = sample.shape[1]
    keys = _ordered(sample.view(torch.int32).numpy())
    for deviations in _DEVIATIONS:
        places = []
        for share in (rank / count for rank in ranks):
            reach = deviations * math.sqrt(size * share * (1 - share)) + 1
            places.append([share * size - reach, share * size, share * size + reach])
        at = np.clip(np.array(places).round().astype(int), 0, size - 1).reshape(-1, 3)
        sorted_there = np.partition(keys, sorted(set(at.ravel().tolist())))
        windows = [
            _window(row, *(int(key) for key in keys_of_row[three]))
            for row, keys_of_row in enumerate(sorted_there)
            for three in at
        ]
        if sum(window.size for window in windows) <= _MOST * _STEP:
            return windows
    return []


def _window(row: int, low: int, middle: int, high: int) -> _Window:
    """Return the window from one key to another, in whole steps; only the side of zero where the middle is.

    The bits of negative floats fall as the floats rise.
    """
    if (low < 0) != (high < 0):
        low, high = (low, -1) if middle < 0 else (0, high)
    first, last = sorted(int(_ordered(np.int32(key))) for key in (low, high))
    start = first // _STEP * _STEP
    return _Window(row, start, (last // _STEP + 1) * _STEP - start)


def _ordered(bits: Any) -> Any:
    """Return keys that sort as floats do, the negative zero before zero, of their bits; of keys the bits."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


class _Pass:
    """Counts a stream below windows and in them; several threads may call `take`.

    Args:
        windows: that are counted.
        count: entries of a row of the stream, at most.
        bounds: whether the least and the greatest value of each row are looked for too.
    """

    def __init__(self, windows: Sequence[_Window], count: int, bounds: bool) -> None:
        self.seen = 0
        self.least = self.greatest = torch.empty(0)
        self._windows = windows
        self._dtype = torch.int32 if count < 2**31 else torch.int64
        self._below = [0] * len(windows)
        self._inside: dict[int, Tensor] = {}
        self._looks = bounds
        self._lock = threading.Lock()

    def take(self, block: Tensor) -> None:
        """Count a block."""
        bits: Any = block.view(torch.int32)
        if block.device.type == "cpu":
            bits = bits.numpy()  # it compares and selects in a third of torch's time
        bounds = (block.amin(dim=1).cpu(), block.amax(dim=1).cpu()) if self._looks and block.numel() else None
        for place, window in enumerate(self._windows):
            below, inside = self._counted(bits[window.row], window)
            with self._lock:
                self._below[place] += below
                piece = len(inside) if isinstance(inside, Tensor) else _PIECE
                for start in range(0, len(inside), max(piece, 1)):
                    self._add(place, torch.as_tensor(inside[start : start + piece]).long())
        with self._lock:
            self.seen += block.shape[1]
            if bounds is not None:
                first = not len(self.least)
                self.least = bounds[0] if first else torch.minimum(self.least, bounds[0])
                self.greatest = bounds[1] if first else torch.maximum(self.greatest, bounds[1])

    def bits_at(self, place: int, rank: int) -> int | None:
        """Return the bits of the value at a rank, if it is in a window."""
        window, rest = self._windows[place], rank - self._below[place]
        counts = self._inside.get(place)
        if counts is None or rest < 0:
            return None
        up_to = (counts.flip(0) if window.is_negative else counts).cumsum(0, dtype=torch.int64)
        if rest >= int(up_to[-1]):
            return None
        at = int(torch.searchsorted(up_to, rest, right=True))
        return window.low + (window.size - 1 - at if window.is_negative else at)

    def _counted(self, row: Any, window: _Window) -> tuple[int, Any]:
        """Return how many floats of a row are below a window, and where in it the others are."""
        last = window.low + window.size - 1
        high_enough, low_enough = row >= window.low, row <= last
        if window.is_negative:
            return _count((row < 0) & ~low_enough), row[high_enough & low_enough] - window.low
        low_enough &= high_enough
        return len(row) - _count(high_enough), row[low_enough] - window.low

    def _add(self, place: int, inside: Tensor) -> None:
        if place not in self._inside:
            empty = torch.zeros(self._windows[place].size, dtype=self._dtype, device=inside.device)
            self._inside[place] = empty
        counts = self._inside[place]
        counts.scatter_add_(0, inside, torch.ones_like(inside, dtype=self._dtype))


def _count(mask: Any) -> int:
    return int(mask.sum()) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))
