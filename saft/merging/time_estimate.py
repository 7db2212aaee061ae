"""How long a merge will take, from trying a small piece of the work."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from blake3 import blake3

from saft.files.fingerprints import remembered
from saft.merging.inputs.source import Source
from saft.merging.method import Tensorwise
from saft.merging.plan import Plan
from saft.merging.stream.block import Block
from saft.merging.stream.engine import apply
from saft.merging.stream.gathering import prepare
from saft.merging.stream.reader import Reader, one_torch_thread
from saft.merging.stream.timing import clock, fastest
from saft.merging.stream.windows import Sample

__all__ = ["seconds"]

_LONGEST = 2**18
"""Elements of a task in a block that is tried, at most."""

T = TypeVar("T")

_SIDE = 128
"""Rows and columns of the matrix that a method of whole tensors is tried on."""


def seconds(plan: Plan) -> float:
    """Return about how long a merge will take on an idle machine, from a fifth of a second of trying.

    The method is timed on one block of random numbers, reading, hashing and writing on a part of the models.
    Files are taken to be in the system's cache: a disk that is slower than the memory takes longer. A method
    of whole tensors is taken to cost as many multiplications as a product of matrices.
    """
    parallel = min(plan.threads, os.cpu_count() or 1)
    counts = {name: count for name in plan.merged if (count := plan.base.headers[name].count)}
    if not counts:
        return plan.output.seconds(plan)
    with one_torch_thread():
        if isinstance(plan.method, Tensorwise):
            block, length = _block(plan, _SIDE, _SIDE), _SIDE**2
            sides = {name: min(plan.base.headers[name].shape[:2], default=1) / _SIDE for name in counts}
        else:
            length = plan.block_size // plan.arithmetic.itemsize // len(plan.models)
            length = max(min(length, _LONGEST, max(counts.values())), 1)
            block, sides = _block(plan, length), dict.fromkeys(counts, 1.0)
        merging = sum(count * sides[name] for name, count in counts.items()) / length
        merging *= fastest(lambda: _seconds_of(plan, block))
        largest = max(counts, key=lambda name: counts[name])
        with Reader(plan) as reader, tempfile.TemporaryFile() as file:
            entries = min(counts[largest], _LONGEST)
            # Of other entries each time: those that were just read are in the processor's cache.
            starts = itertools.cycle(range(0, counts[largest] - entries + 1, entries))
            part = reader.parts(largest)
            reading = fastest(lambda: clock(lambda: part(next(starts), entries))) / entries
            raw = plan.base.tensor(largest).reshape(-1)[:entries].contiguous().view(torch.uint8).numpy()
            hashing = fastest(lambda: clock(lambda: blake3(raw.data))) / max(raw.nbytes, 1)
            writing = fastest(lambda: clock(lambda: file.write(raw.data))) / max(raw.nbytes, 1)
    sources = [plan.base, *plan.models.values()]
    files = {file for source in sources for file in source.files if remembered(file, "blake3") is None}
    hashed = hashing * sum(_size(file, sources) for file in files)
    in_a_pass = sum(source.headers[name].nbytes for source in sources for name in counts)
    read = sum(counts.values()) * plan.bytes_to_read / max(in_a_pass, 1)
    moved = reading * read + writing * plan.bytes_out
    slowest = max((merging + hashed + moved) / parallel, hashed / plan.hashing_threads)
    return slowest + plan.output.seconds(plan)


def _size(file: Path, sources: Sequence[Source]) -> int:
    """Return the bytes of a file; of one that an earlier merge has yet to write, those of its tensors."""
    if file.exists():
        return file.stat().st_size
    tensors = {header for source in sources for header in source.headers.values() if header.file == file}
    return sum(header.nbytes for header in tensors)


def _block(plan: Plan, *shape: int) -> Block:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(plan.models) + 1, *shape, generator=generator, dtype=plan.arithmetic) * 0.01
    return Block(drawn[1:].to(plan.device), drawn[0].to(plan.device), "probe")


def _seconds_of(plan: Plan, block: Block) -> float:
    """Return the seconds of one block in all passes; what is done once for all blocks does not count."""
    spent = 0.0

    def timed(function: Callable[[Block], T]) -> list[T]:
        nonlocal spent
        start = time.thread_time()
        value = function(block)
        spent += time.thread_time() - start
        return [value]

    sample = Sample[Block](lambda function: [function(block)], block.base.numel())
    known = sample if plan.is_sampled else None
    function = prepare(plan.method, block.tasks, block.base.numel(), timed, plan.device, known)
    timed(lambda block: apply(block.base, function(block), plan.scaling))
    return spent
