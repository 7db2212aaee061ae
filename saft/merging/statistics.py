"""Exact statistics of a stream that is never in memory as a whole: order statistics, extremes, sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Extremes, OrderStatistics, Statistic

__all__ = [
    "SUM_GRAIN",
    "Blocks",
    "extremes",
    "gather",
    "order_statistics",
    "passes_needed",
    "prepare",
    "sums",
]

Blocks = Callable[[], Iterable[Tensor]]
"""Starts a new pass over the stream, in blocks [rows, n] of float32."""

SUM_GRAIN = 4096
"""Elements that `sums` adds up in one go: blocks that begin at its multiples give the same bits."""

_BINS = 1 << 16
_MAGNITUDE_BITS = 0x7FFFFFFF


def prepare(method: Elementwise, tasks: int, count: int, blocks: Blocks) -> Callable[[Tensor], Tensor]:
    """Give `method` the statistics that it asks for, and return its function of a block.

    Args:
        method: how to merge.
        tasks: number of task vectors.
        count: number of coordinates of the stream.
        blocks: starts a pass over the task vectors, in blocks [tasks, n].

    Returns:
        A function of a block [tasks, n] to the merged block [n].
    """
    if count == 0:
        return lambda block: block.new_empty(0)
    steps = method.steps(tasks, count)
    try:
        statistic = next(steps)
        while True:
            statistic = steps.send(gather(statistic, blocks))
    except StopIteration as end:
        function: Callable[[Tensor], Tensor] = end.value
        return function


def passes_needed(method: Elementwise, tasks: int) -> int:
    """Return how often `method` reads the task vectors, the pass that merges them included."""
    found = 1

    def blocks() -> Iterable[Tensor]:
        nonlocal found
        found += 1
        return [torch.zeros(tasks, 2)]

    prepare(method, tasks, 2, blocks)
    return found


def gather(statistic: Statistic, blocks: Blocks) -> Tensor:
    """Return the value of `statistic` over the stream of task vectors that `blocks` gives."""

    def values() -> Iterable[Tensor]:
        return (statistic.values(block) for block in blocks())

    if isinstance(statistic, OrderStatistics):
        return order_statistics(values, statistic.ranks)
    return extremes(values()) if isinstance(statistic, Extremes) else sums(values())


def order_statistics(blocks: Blocks, ranks: Sequence[int]) -> Tensor:
    """Return the values at `ranks` of each row of a stream, to the bit, in memory independent of its length.

    The bits of a float, read as an integer with the negative ones turned around, sort as the float does. A
    first pass counts the upper 16 bits, which finds the bin of each rank; a second counts the lower 16
    within that bin.

    Args:
        blocks: starts a pass over finite float32 blocks [rows, n]; every pass must give the same values.
        ranks: positions in ascending order, from 0.

    Returns:
        float32 [rows, len(ranks)]; a negative zero comes back as zero.

    Example:
        >>> order_statistics(lambda: [torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0]])], (0, 2))
        tensor([[-1.,  3.]])
    """
    wanted = torch.tensor([list(ranks)])
    counts = _count_upper(blocks())
    bins, rest = _locate(counts, wanted.expand(len(counts), -1))
    # Ranks of one row that fall into one bin share its second histogram.
    codes = torch.arange(len(counts)).unsqueeze(1) * _BINS + bins
    chosen = sorted(set(codes.flatten().tolist()))
    counts = _count_lower(blocks(), [divmod(code, _BINS) for code in chosen])
    slots = torch.searchsorted(torch.tensor(chosen), codes.flatten())
    lower, _ = _locate(counts[slots], rest.reshape(-1, 1))
    keys = ((bins - _BINS // 2) << 16) | lower.view_as(bins)
    return _values(keys.to(torch.int32))


def _count_upper(blocks: Iterable[Tensor]) -> Tensor:
    """Count the upper halves of the keys: int64 [rows, bins]."""
    counts = torch.empty(0)
    for block in blocks:
        if not len(counts):
            counts = torch.zeros(len(block), _BINS, dtype=torch.int64)
        upper = (_keys(block) >> 16).add_(_BINS // 2)
        for row, digits in zip(counts, upper, strict=True):
            row += torch.bincount(digits, minlength=_BINS)
    if not len(counts):
        raise ValueError("an empty stream has no order statistics")
    return counts


def _count_lower(blocks: Iterable[Tensor], chosen: Sequence[tuple[int, int]]) -> Tensor:
    """Count the lower halves of the keys in each chosen (row, bin): int64 [chosen, bins]."""
    counts = torch.zeros(len(chosen), _BINS, dtype=torch.int64)
    for block in blocks:
        keys = _keys(block).numpy()
        upper = keys >> 16
        for count, (row, found) in zip(counts, chosen, strict=True):
            # NumPy, because its selection by a mask is five times as fast as torch's.
            inside = keys[row][upper[row] == found - _BINS // 2] & (_BINS - 1)
            count.scatter_add_(
                0, torch.from_numpy(inside).long(), torch.ones(1, dtype=torch.int64).expand(len(inside))
            )
    return counts


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


def extremes(blocks: Iterable[Tensor]) -> Tensor:
    """Return the least and the greatest value of each row: [rows, 2]."""
    result: Tensor | None = None
    for block in blocks:
        found = torch.stack([-block.amin(dim=1), block.amax(dim=1)], dim=1)
        result = found if result is None else torch.maximum(result, found, out=result)
    if result is None:
        raise ValueError("an empty stream has no extremes")
    return result * torch.tensor([-1, 1])


def sums(blocks: Iterable[Tensor]) -> Tensor:
    """Return the sum of each row: float64 [rows, 1].

    Pieces of a fixed length are added up by torch, the pieces one after the other, so that the bits depend on
    neither the number of threads nor, for blocks of whole pieces, on the size of the blocks.
    """
    result: Tensor | None = None
    for block in blocks:
        for start in range(0, block.shape[1], SUM_GRAIN):
            found = block[:, start : start + SUM_GRAIN].sum(dim=1, keepdim=True, dtype=torch.float64)
            result = found if result is None else result.add_(found)
    if result is None:
        raise ValueError("an empty stream has no sum")
    return result
