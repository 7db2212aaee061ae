"""What a method asks of the whole stream, gathered: its steps run, order statistics, extremes and sums."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Extremes, Method, OrderStatistics, Statistic
from saft.merging.stream.block import Block
from saft.merging.stream.order_statistics import order_statistics
from saft.merging.stream.windows import BlockStream, Sample

__all__ = [
    "SUM_GRAIN",
    "run_steps",
    "extremes",
    "gather",
    "on_device",
    "passes_needed",
    "prepare",
    "sums",
]

T = TypeVar("T")

SUM_GRAIN = 4096
"""Elements that `sums` adds up in one go: blocks that begin at its multiples give the same bits."""

_CPU = torch.device("cpu")


def prepare(
    method: Method,
    tasks: int,
    count: int,
    blocks: BlockStream[Block],
    device: torch.device = _CPU,
    sample: Sample[Block] | None = None,
) -> Callable[[Block], Tensor]:
    """Prepare `method`: gather the statistics that it asks for, and return its function of a block.

    Args:
        method: how to merge.
        tasks: number of task vectors.
        count: number of coordinates of the stream.
        blocks: passes over the task vectors.
        device: of the task vectors.
        sample: of the same blocks, which may save a pass; no result depends on it.

    Returns:
        A function of a block to the merged task vector, [n] or the tensor's shape.
    """
    if count == 0:
        return lambda block: torch.zeros_like(block.base)
    return run_steps(method.steps(tasks, count), blocks, device, sample)


def run_steps(
    steps: Generator[Statistic, Tensor, T],
    blocks: BlockStream[Block],
    device: torch.device = _CPU,
    sample: Sample[Block] | None = None,
) -> T:
    """Send a method's steps the value of each statistic that they ask for; return what they return.

    All that a method sees lies on the device: the blocks, the statistics, and what it makes itself.

    Args:
        steps: what `Method.steps` or `PerTaskMethod.split` returned.
        blocks: passes over the task vectors, each block [n_tasks, n] or [n_tasks, *shape].
        device: of the task vectors.
        sample: of the same blocks; see `prepare`.
    """
    try:
        with on_device(device):
            statistic = next(steps)
        while True:
            value = gather(statistic, blocks, sample).to(device)  # sums come from the CPU
            with on_device(device):
                statistic = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make the tensors that a method makes there, so that it need not know where it computes."""
    return nullcontext() if device.type == "cpu" else device


def passes_needed(
    method: Method, tasks: int, arithmetic: torch.dtype = torch.float32, ordered: int = 2
) -> int:
    """Return how often `method` reads the task vectors, the pass that merges them included.

    It is asked for its statistics with a few random numbers in place of the models: with zeros a method may
    end early.

    Args:
        method: with its parameters.
        tasks: number of task vectors.
        arithmetic: float32 or float64.
        ordered: passes that order statistics take, all that are asked for at once; see `passes_of`.
    """
    shape = (2,) if isinstance(method, Elementwise) else (2, 2)
    drawn = torch.randn(tasks + 1, *shape, generator=torch.Generator().manual_seed(0), dtype=arithmetic)
    block, passes = Block(drawn[1:], drawn[0]), 1
    steps = method.steps(tasks, block.base.numel())
    with suppress(StopIteration):
        statistic = next(steps)
        while True:
            passes += ordered if isinstance(statistic, OrderStatistics) else 1
            statistic = steps.send(gather(statistic, lambda function: [function(block)]))
    return passes


def gather(statistic: Statistic, blocks: BlockStream[Block], sample: Sample[Block] | None = None) -> Tensor:
    """Return the value of `statistic` over a stream of task vectors.

    Args:
        statistic: what a method asks for.
        blocks: passes over the task vectors, each block [n_tasks, n] or [n_tasks, *shape].
        sample: of the same blocks; see `prepare`.

    Returns:
        [rows, values], as the statistic says.

    Raises:
        ValueError: the stream is empty.
    """

    def values(over: BlockStream[Block]) -> BlockStream[Tensor]:
        return lambda function: over(lambda block: function(statistic.values(block)))

    if isinstance(statistic, OrderStatistics):
        like = None
        if sample is not None:
            like = Sample(values(sample.blocks), sample.count)
        return order_statistics(values(blocks), statistic.ranks, like)
    return extremes(values(blocks)) if isinstance(statistic, Extremes) else sums(values(blocks))


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
