"""Exact statistics of a stream that is never in memory as a whole: order statistics, extremes, sums."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Extremes, Method, OrderStatistics, Statistic
from saft.merging.stream.block import Block

__all__ = [
    "SUM_GRAIN",
    "BlockStream",
    "run_steps",
    "extremes",
    "gather",
    "on_device",
    "order_statistics",
    "passes_needed",
    "prepare",
    "sums",
]


T = TypeVar("T")
B = TypeVar("B", covariant=True)


class BlockStream(Protocol[B]):
    """A stream that can be gone over again: each call applies a function to every block of it."""

    def __call__(self, function: Callable[[B], T]) -> Iterable[T]:
        """Return the results in the order of the blocks; they may be computed several at a time."""


SUM_GRAIN = 4096
"""Elements that `sums` adds up in one go: blocks that begin at its multiples give the same bits."""

_DIGIT = 16  # bits that a pass counts
_BINS = 1 << _DIGIT
_CPU = torch.device("cpu")
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def prepare(
    method: Method,
    tasks: int,
    count: int,
    blocks: BlockStream[Block],
    device: torch.device = _CPU,
) -> Callable[[Block], Tensor]:
    """Prepare `method`: gather the statistics that it asks for, and return its function of a block.

    Args:
        method: how to merge.
        tasks: number of task vectors.
        count: number of coordinates of the stream.
        blocks: passes over the task vectors.
        device: of the task vectors.

    Returns:
        A function of a block to the merged task vector, [n] or the tensor's shape.
    """
    if count == 0:
        return lambda block: torch.zeros_like(block.base)
    return run_steps(method.steps(tasks, count), blocks, device)


def run_steps(
    steps: Generator[Statistic, Tensor, T], blocks: BlockStream[Block], device: torch.device = _CPU
) -> T:
    """Send a method's steps the value of each statistic that they ask for; return what they return.

    All that a method sees lies on the device: the blocks, the statistics, and what it makes itself.

    Args:
        steps: what `Method.steps` or `PerTaskMethod.split` returned.
        blocks: passes over the task vectors, each block [n_tasks, n] or [n_tasks, *shape].
        device: of the task vectors.
    """
    try:
        with on_device(device):
            statistic = next(steps)
        while True:
            value = gather(statistic, blocks).to(device)  # sums come from the CPU
            with on_device(device):
                statistic = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make the tensors that a method makes there, so that it need not know where it computes."""
    return nullcontext() if device.type == "cpu" else device


def passes_needed(method: Method, tasks: int, arithmetic: torch.dtype = torch.float32) -> int:
    """Return how often `method` reads the task vectors, the pass that merges them included.

    It is asked for its statistics with a few random numbers in place of the models: with zeros a method may
    end early.

    Args:
        method: with its parameters.
        tasks: number of task vectors.
        arithmetic: float32 or float64.
    """
    passes = 1
    shape = (2,) if isinstance(method, Elementwise) else (2, 2)
    drawn = torch.randn(tasks + 1, *shape, generator=torch.Generator().manual_seed(0), dtype=arithmetic)
    block = Block(drawn[1:], drawn[0])

    def blocks(function: Callable[[Block], T]) -> Iterable[T]:
        nonlocal passes
        passes += 1
        return [function(block)]

    prepare(method, tasks, block.base.numel(), blocks)
    return passes


def gather(statistic: Statistic, blocks: BlockStream[Block]) -> Tensor:
    """Return the value of `statistic` over a stream of task vectors.

    Args:
        statistic: what a method asks for.
        blocks: passes over the task vectors, each block [n_tasks, n] or [n_tasks, *shape].

    Returns:
        [rows, values], as the statistic says.

    Raises:
        ValueError: the stream is empty.
    """

    def values(function: Callable[[Tensor], T]) -> Iterable[T]:
        return blocks(lambda block: function(statistic.values(block)))

    if isinstance(statistic, OrderStatistics):
        return order_statistics(values, statistic.ranks)
    return extremes(values) if isinstance(statistic, Extremes) else sums(values)


def order_statistics(blocks: BlockStream[Tensor], ranks: Sequence[int]) -> Tensor:
    """Return the values at `ranks` of each row of a stream, to the bit, in memory independent of its length.

    The bits of a float, read as an integer, sort as the float does where it is positive, and the other way
    round where it is negative. A first pass counts the upper 16 bits, which finds the bin of each rank; each
    further pass counts the next 16 within that bin: one more for float32, three for float64.

    Args:
        blocks: passes over finite blocks [rows, n], float32 or float64; every pass must meet the same values.
        ranks: positions in ascending order, from 0.

    Returns:
        [rows, len(ranks)] of the blocks' dtype, on their device; a negative zero comes back as zero.

    Raises:
        ValueError: the stream is empty.

    Example:
        >>> blocks = [torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0]])]
        >>> order_statistics(lambda function: map(function, blocks), (0, 2))
        tensor([[-1.,  3.]])
    """
    counts, example = _count_first(blocks)
    positive, negative = counts.chunk(2, dim=1)
    wanted = torch.tensor([list(ranks)]).expand(len(counts), -1)
    bins, rest = _locate(torch.cat([negative.flip(1), positive], dim=1), wanted)
    begins = torch.where(bins < _BINS // 2, -1 - bins, bins - _BINS // 2)  # the bits, so far
    for shift in range(_first_shift(example.dtype) - _DIGIT, -1, -_DIGIT):
        # Ranks of one row that fall into one bin share the histogram of their next digit.
        places = [(row, begin) for row, row_begins in enumerate(begins.tolist()) for begin in row_begins]
        chosen = sorted(set(places))
        counts = _count_within(blocks, chosen, shift)[[chosen.index(place) for place in places]]
        minus = begins.reshape(-1, 1) < 0
        digits, rest = _locate(torch.where(minus, counts.flip(1), counts), rest.reshape(-1, 1))
        digits = torch.where(minus, _BINS - 1 - digits, digits)
        begins = (begins << _DIGIT) | digits.view_as(begins)
    # The negative zero sorts just before zero; adding zero makes it one.
    return begins.to(_INTEGERS[example.dtype]).view(example.dtype).add_(0.0).to(example.device)


def _first_shift(dtype: torch.dtype) -> int:
    """Return by how many bits the uppermost digit is shifted."""
    return dtype.itemsize * 8 - _DIGIT


def _count_first(blocks: BlockStream[Tensor]) -> tuple[Tensor, Tensor]:
    """Count the uppermost digits, int64 [rows, bins]; return an empty tensor of the kind too."""
    counts = _Counts()

    def count(block: Tensor) -> Tensor:
        upper = (_bits(block) >> _first_shift(block.dtype)).bitwise_and_(_BINS - 1)
        for row, digits in enumerate(upper):
            counts.add(row, digits)
        return block.new_empty(0)

    examples = deque(blocks(count), maxlen=1)
    if not examples:
        raise ValueError("an empty stream has no statistics")
    return counts.result(), examples[0]


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


def extremes(blocks: BlockStream[Tensor]) -> Tensor:
    """Return the least and the greatest value of each row: [rows, 2].

    Raises:
        ValueError: the stream is empty.
    """
    result: Tensor | None = None
    for bounds in blocks(lambda block: torch.stack([-block.amin(dim=1), block.amax(dim=1)], dim=1)):
        result = bounds if result is None else torch.maximum(result, bounds, out=result)
    if result is None:
        raise ValueError("an empty stream has no statistics")
    return result * result.new_tensor([-1, 1])


def sums(blocks: BlockStream[Tensor]) -> Tensor:
    """Return the sum of each row: float64 [rows, 1].

    Pieces of a fixed length are added up by torch, the pieces one after the other, so that the bits depend on
    neither the number of threads nor, for blocks of whole pieces, on the size of the blocks.

    Raises:
        ValueError: the stream is empty.
    """

    def in_pieces(block: Tensor) -> Tensor:
        rows, whole = len(block), block.shape[1] // SUM_GRAIN
        pieces = block[:, : whole * SUM_GRAIN].reshape(rows, whole, SUM_GRAIN)
        rest = block[:, None, whole * SUM_GRAIN :]
        parts = [part.sum(dim=2, dtype=torch.float64) for part in (pieces, rest)]
        return torch.cat(parts, dim=1).cpu()

    result: Tensor | None = None
    for partial in blocks(in_pieces):
        partial = partial if result is None else torch.cat([result, partial], dim=1)
        result = partial.cumsum(dim=1)[:, -1:]  # one after the other
    if result is None:
        raise ValueError("an empty stream has no statistics")
    return result
