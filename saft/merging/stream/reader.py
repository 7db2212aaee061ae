"""The task vectors of a plan, block by block, worked on by a few threads; the results come in order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from saft.errors import UserError
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.same_numbers import equal_numbers
from saft.merging.method import Tensorwise
from saft.merging.plan import Plan, Progress
from saft.merging.stream.block import Block
from saft.merging.stream.gathering import SUM_GRAIN, on_device
from saft.merging.stream.windows import BlockStream, Sample

__all__ = ["Progress", "Reader", "all_finite", "one_torch_thread"]

T = TypeVar("T")

_AHEAD = 4
"""Blocks that wait for each thread, so that none waits for the thread that reads and collects."""

_SAMPLED = 2**21
"""Entries of a sample, all tasks together, at most."""
_LEAST_LEFT_OUT = 64
"""A sample takes at most one entry in so many."""
_STRETCH = 64
"""Entries of a sample that follow each other in the tensor."""

_SUMMED = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes whose sums seldom overflow."""

_LARGEST_KEPT = 12 * 2**20
"""Bytes, of which glibc keeps twice as many: what the work on a block needs."""


@dataclass(frozen=True)
class _Piece:
    """A part of one tensor, in the base and then in every model, as it is in the files.

    `subtracted` tells of each model whether its part is the difference from the base: that of an adapter is,
    since adding the base and subtracting it again would leave rounding, which has all directions.
    """

    name: str
    start: int
    parts: list[Tensor]
    subtracted: list[bool]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class Reader:
    """Goes over the task vectors of a plan as often as a method asks.

    Each thread takes whole blocks and lets torch use one core. Torch's own threads would meet after each
    operation on each small block, which takes a hundred times as long when another process wants a core.
    Each call of torch gives Python's lock away, and may have to wait for it: what runs for every block makes
    few of them, and none that does nothing.

    Args:
        plan: of the merge.
        progress: called with the bytes read, in all passes.
    """

    def __init__(self, plan: Plan, progress: Progress | None = None) -> None:
        if plan.method.calibration and not plan.collected.headers:
            raise ValueError(f"{plan.config.method} reads examples; collect them: saft.calibration.collected")
        self._plan = plan
        self._progress = progress
        self._read, self._to_read = 0, plan.bytes_to_read
        self._threads = plan.threads
        self._pool = ThreadPoolExecutor(self._threads)
        self._whole = isinstance(plan.method, Tensorwise)
        _keep_freed_memory()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def blocks(self, names: Sequence[str]) -> BlockStream[Block]:
        """Return the blocks of the tensors called `names`, to be gone over as often as one likes."""
        return partial(self.map_blocks, names)

    def sample(self, names: Sequence[str]) -> Sample[Block] | None:
        """Return an even part of the tensors called `names`, a block each, if a sample is worth its time.

        The entries of such a block do not follow each other in the tensor, and its `start` means nothing.
        """
        if not self._plan.is_sampled:
            return None
        count = self._plan.entries(names)
        one_in = max(_LEAST_LEFT_OUT, count * len(self._plan.models) // _SAMPLED)

        def blocks(function: Callable[[Block], T]) -> Iterator[T]:
            return self._in_order(self._on_blocks(function), self._thinned(names, one_in), counted=False)

        return Sample(blocks, count)

    def parts(self, name: str) -> Callable[[int, int], Block]:
        """Return what makes a block of some entries of a tensor, as any is made: to see how long that takes.

        Args:
            name: of the tensor.

        Returns:
            Start of the entries, and how many, at least 1 -> their block.
        """
        piece = next(self._pieces([name], whole=True))  # of an adapter its change, computed once a tensor

        def part(start: int, count: int) -> Block:
            parts = [whole.reshape(-1)[start : start + count] for whole in piece.parts]
            return self._block(replace(piece, start=start, parts=parts))

        return part

    def map_blocks(self, names: Sequence[str], function: Callable[[Block], T]) -> Iterator[T]:
        """Yield the function's result for each block of the tensors called `names`, in their order."""

        return self._in_order(self._on_blocks(function), self._pieces(names))

    def _on_blocks(self, function: Callable[[Block], T]) -> Callable[[_Piece], T]:
        def work(piece: _Piece) -> T:
            with on_device(self._plan.device):
                return function(self._block(piece))

        return work

    def _in_order(
        self, function: Callable[[_Piece], T], pieces: Iterator[_Piece], counted: bool = True
    ) -> Iterator[T]:
        """Apply `function` to the pieces, several at a time and few ahead, and give the results in order."""
        with one_torch_thread():
            if self._threads == 1:
                for piece in pieces:
                    yield function(piece)
                    self._count(piece, counted)
                return
            pending: deque[tuple[_Piece, Future[T]]] = deque()
            for piece in pieces:
                pending.append((piece, self._pool.submit(function, piece)))
                if len(pending) >= self._threads * (1 if self._whole else _AHEAD):
                    yield pending[0][1].result()
                    self._count(pending.popleft()[0], counted)
            for piece, future in pending:
                yield future.result()
                self._count(piece, counted)

    def _count(self, piece: _Piece, counted: bool) -> None:
        self._read += piece.nbytes if counted else 0
        self._to_read = max(self._to_read, self._read)  # a pass more, where a sample has misled
        if self._progress:
            self._progress(self._read, self._to_read)

    def _pieces(self, names: Sequence[str], whole: bool = False) -> Iterator[_Piece]:
        base, models = self._plan.base, self._plan.models.values()
        elements = self._plan.block_size // self._plan.arithmetic.itemsize
        length = max(elements // len(self._plan.models) // SUM_GRAIN, 1) * SUM_GRAIN
        for name in names:
            tensors, subtracted = [base.tensor(name)], []
            for model in models:
                factors = model.factors(name, base)
                change = factors.change(base.headers[name].shape) if factors else None
                tensors.append(model.tensor(name) if change is None else change)
                subtracted.append(change is not None)
            if whole or self._whole:
                yield _Piece(name, 0, tensors, subtracted)
                continue
            flat = [tensor.reshape(-1) for tensor in tensors]
            for start in range(0, len(flat[0]), length):
                parts = [tensor[start : start + length] for tensor in flat]
                yield _Piece(name, start, parts, subtracted)

    def _thinned(self, names: Sequence[str], one_in: int) -> Iterator[_Piece]:
        """Yield one piece of each tensor: one entry in so many, in stretches, which are quicker to read."""
        sources = (self._plan.base, *self._plan.models.values())
        for name in names:
            flat = [source.tensor(name).reshape(-1) for source in sources]
            yield _Piece(name, 0, [_stretches(tensor, one_in) for tensor in flat], [False] * len(flat[1:]))

    def _block(self, piece: _Piece) -> Block:
        device, dtype = self._plan.device, self._plan.arithmetic
        parts = piece.parts
        if device.type != "cpu":
            parts = [part.to(device, non_blocking=True) for part in parts]
        if not self._whole and parts[0].ndim > 1:
            parts = [part.reshape(-1) for part in parts]
        base, models = parts[0].to(dtype), parts[1:]
        task_vectors = torch.empty(len(models), *base.shape, dtype=dtype, device=device)
        rows = task_vectors.unbind()
        if any(piece.subtracted):
            torch._foreach_copy_(rows, models)  # and their dtypes
            for row, subtracted in zip(rows, piece.subtracted, strict=True):
                if not subtracted:
                    row.sub_(base)
        elif any(model.dtype != dtype for model in models):
            torch._foreach_copy_(rows, models)
            task_vectors.sub_(base)
        else:
            for row, model in zip(rows, models, strict=True):
                torch.sub(model, base, out=row)
        if not all_finite(task_vectors):
            self._refuse(piece.name)
        header = self._plan.base.headers[piece.name]
        statistics = self._plan.collected.of(piece.name, header.shape, piece.start, base)
        factors = self._factors(piece.name, base)
        return Block(
            task_vectors,
            base,
            piece.name,
            piece.start,
            self._plan.config.seed,
            statistics,
            header.count,
            factors,
            self._plan.base.in_files.get(piece.name),
        )

    def _factors(self, name: str, base: Tensor) -> tuple[Factors, ...]:
        if not self._plan.method.needs_adapters:
            return ()
        by_model = (model.factors(name, self._plan.base) for model in self._plan.models.values())
        return tuple(factors.to(base) for factors in by_model if factors is not None)

    def _refuse(self, name: str) -> NoReturn:
        """Raise, naming the input that makes the task vectors of `name` not finite."""
        problems = []
        base = self._plan.base
        models = {f"models.{task}": source for task, source in self._plan.models.items()}
        if all(equal_numbers(source.tensor(name), base.tensor(name)) for source in models.values()):
            raise UserError(
                f"'{name}' holds infinity, in the base and in all models alike, as a mask does; keep it out "
                f'of the merge with exclude: ["{name}"]'
            )
        for what, source in {"base": base, **models}.items():
            header = source.headers[name]
            bad = int(header.count - torch.isfinite(source.tensor(name).to(self._plan.arithmetic)).sum())
            if bad:
                cure = (
                    "the base is damaged: copy or download it again"
                    if source is base
                    else "that model diverged or is damaged: train it again, or leave it out"
                )
                place = header.file if header.stored is None else f"{what}: {header.file}"  # in memory
                problems.append(
                    f"{place}: '{name}' holds NaN or infinity ({bad} of {header.count} numbers); {cure}"
                )
        raise UserError(
            *problems
            or [
                f"'{name}': fine-tuned and base weights differ by more than "
                f"{self._plan.config.arithmetic} can hold"
            ]
        )


def _stretches(flat: Tensor, one_in: int) -> Tensor:
    """Return one element in so many of a flat tensor, as stretches that are evenly apart: a view of it."""
    step = _STRETCH * one_in + 1  # odd, lest it falls on the same columns of a matrix
    count = len(flat) // step
    if not count:
        return flat[: math.ceil(len(flat) / one_in)]
    return flat[: count * step].view(count, step)[:, :_STRETCH]


def all_finite(tensor: Tensor) -> bool:
    """Return whether a tensor, of any shape, holds neither NaN nor infinity.

    Example:
        >>> all_finite(torch.ones(2)), all_finite(torch.tensor([1.0, float("nan")]))
        (True, False)
    """
    # One sum is 20 times as fast as a test of each element, but may overflow where every element is finite.
    total = (tensor if tensor.dtype in _SUMMED else tensor.float()).sum()
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


def _keep_freed_memory() -> None:
    """Have the allocator keep the memory that one block frees for the next block.

    glibc keeps up to twice the largest piece that was ever freed. By default that is less than a block needs,
    so that its pages go back to the system and come again, which takes as long as the arithmetic.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one core while the block runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
