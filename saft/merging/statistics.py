"""Exact statistics of a stream that is never in memory as a whole: order statistics, extremes, sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from saft.merging.block import Block
from saft.merging.method import Elementwise, Extremes, Method, OrderStatistics, Statistic

__all__ = [
    "SUM_GRAIN",
    "Passes",
    "extremes",
    "gather",
    "order_statistics",
    "passes_needed",
    "prepare",
    "sums",
]


T = TypeVar("T")
B = TypeVar("B", covariant=True)


class Passes(Protocol[B]):
    """A stream that can be gone over again: each call applies a function to every block of it."""

    def __call__(self, function: Callable[[B], T]) -> Iterable[T]:
        """Return the results in the order of the blocks; they may be computed several at a time."""


SUM_GRAIN = 4096
"""Elements that `sums` adds up in one go: blocks that begin at its multiples give the same bits."""

_BINS = 1 << 16
_MAGNITUDE_BITS = 0x7FFFFFFF


def prepare(method: Method, tasks: int, count: int, over: Passes[Block]) -> Callable[[Block], Tensor]:
    """Give `method` the statistics that it asks for, and return its function of a block.

    Args:
        method: how to merge.
        tasks: number of task vectors.
        count: number of coordinates of the stream.
        over: passes over the task vectors.

    Returns:
        A function of a block to the merged task vector, [n] or the tensor's shape.
    """
    if count == 0:
        return lambda block: torch.zeros_like(block.base)
    steps = method.steps(tasks, count)
    try:
        statistic = next(steps)
        while True:
            statistic = steps.send(gather(statistic, over))
    except StopIteration as end:
        function: Callable[[Block], Tensor] = end.value
        return function


def passes_needed(method: Method, tasks: int) -> int:
    """Return how often `method` reads the task vectors, the pass that merges them included."""
    found = 1

    shape = (2,) if isinstance(method, Elementwise) else (2, 2)
    block = Block(torch.zeros(tasks, *shape), torch.zeros(shape))

    def over(function: Callable[[Block], T]) -> Iterable[T]:
        nonlocal found
        found += 1
        return [function(block)]

    prepare(method, tasks, block.base.numel(), over)
    return found


def gather(statistic: Statistic, over: Passes[Block]) -> Tensor:
    """Return the value of `statistic` over the stream of task vectors that `over` passes over."""

    def values(function: Callable[[Tensor], T]) -> Iterable[T]:
        return over(lambda block: function(statistic.values(block)))

    if isinstance(statistic, OrderStatistics):
        return order_statistics(values, statistic.ranks)
    return extremes(values) if isinstance(statistic, Extremes) else sums(values)


def order_statistics(over: Passes[Tensor], ranks: Sequence[int]) -> Tensor:
    """Return the values at `ranks` of each row of a stream, to the bit, in memory independent of its length.

    The bits of a float, read as an integer with the negative ones turned around, sort as the float does. A
    first pass counts the upper 16 bits, which finds the bin of each rank; a second counts the lower 16
    within that bin.

    Args:
        over: passes over finite float32 blocks [rows, n]; every pass must meet the same values.
        ranks: positions in ascending order, from 0.

    Returns:
        float32 [rows, len(ranks)]; a negative zero comes back as zero.

    Example:
        >>> blocks = [torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0]])]
        >>> order_statistics(lambda function: map(function, blocks), (0, 2))
        tensor([[-1.,  3.]])
    """
    wanted = torch.tensor([list(ranks)])
    counts = _added(over(_count_upper))
    bins, rest = _locate(counts, wanted.expand(len(counts), -1))
    # Ranks of one row that fall into one bin share its second histogram.
    codes = torch.arange(len(counts)).unsqueeze(1) * _BINS + bins
    chosen = sorted(set(codes.flatten().tolist()))
    counts = _count_lower(over, [divmod(code, _BINS) for code in chosen])
    slots = torch.searchsorted(torch.tensor(chosen), codes.flatten())
    lower, _ = _locate(counts[slots], rest.reshape(-1, 1))
    keys = ((bins - _BINS // 2) << 16) | lower.view_as(bins)
    return _values(keys.to(torch.int32))


def _count_upper(block: Tensor) -> Tensor:
    """Count the upper halves of the keys: int64 [rows, bins]."""
    upper = (_keys(block) >> 16).add_(_BINS // 2)
    return torch.stack([torch.bincount(row, minlength=_BINS) for row in upper])


def _count_lower(over: Passes[Tensor], chosen: Sequence[tuple[int, int]]) -> Tensor:
    """Count the lower halves of the keys in each chosen (row, bin): int64 [chosen, bins]."""

    def select(block: Tensor) -> list[Tensor]:
        keys = _keys(block).numpy()
        upper = keys >> 16
        # NumPy, because its selection by a mask is five times as fast as torch's.
        found = [keys[row][upper[row] == number - _BINS // 2] & (_BINS - 1) for row, number in chosen]
        return [torch.from_numpy(part).long() for part in found]

    counts = torch.zeros(len(chosen), _BINS, dtype=torch.int64)
    for selected in over(select):
        for count, part in zip(counts, selected, strict=True):
            count.scatter_add_(0, part, torch.ones_like(part))
    return counts


def _added(results: Iterable[Tensor]) -> Tensor:
    """Add up, from the first to the last, in place."""
    total: Tensor | None = None
    for result in results:
        total = result if total is None else total.add_(result)
    if total is None:
        raise ValueError("an empty stream has no statistics")
    return total


def _keys(values: Tensor) -> Tensor:
    """Return int32 that sort as the float32 `values` do."""
    bits = (values + 0.0).view(torch.int32)  # adding zero makes the negative zero equal to zero
    return (bits >> 31).bitwise_and_(_MAGNITUDE_BITS).bitwise_xor_(bits)


def _values(keys: Tensor) -> Tensor:
    return (keys ^ ((keys >> 31) & _MAGNITUDE_BITS)).view(torch.float32)


def _locate(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin that holds each rank, and the rank within it."""
    below = counts.cumsum(dim=1)
    bins = torch.searchsorted(below, ranks.contiguous(), right=True)
    before = torch.where(bins > 0, below.gather(1, (bins - 1).clamp(min=0)), 0)
    return bins, ranks - before


def extremes(over: Passes[Tensor]) -> Tensor:
    """Return the least and the greatest value of each row: [rows, 2]."""
    result: Tensor | None = None
    for found in over(lambda block: torch.stack([-block.amin(dim=1), block.amax(dim=1)], dim=1)):
        result = found if result is None else torch.maximum(result, found, out=result)
    if result is None:
        raise ValueError("an empty stream has no statistics")
    return result * torch.tensor([-1, 1])


def sums(over: Passes[Tensor]) -> Tensor:
    """Return the sum of each row: float64 [rows, 1].

    Pieces of a fixed length are added up by torch, the pieces one after the other, so that the bits depend on
    neither the number of threads nor, for blocks of whole pieces, on the size of the blocks.
    """

    def in_pieces(block: Tensor) -> list[Tensor]:
        starts = range(0, block.shape[1], SUM_GRAIN)
        return [block[:, at : at + SUM_GRAIN].sum(dim=1, keepdim=True, dtype=torch.float64) for at in starts]

    return _added(piece for pieces in over(in_pieces) for piece in pieces)
