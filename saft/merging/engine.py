"""The merge itself: blocks of task vectors through a method, tensor by tensor, and the folder that comes
out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from saft.checkpoint import WEIGHTS, fingerprint, staged, weight_files
from saft.errors import UserError
from saft.merging import record
from saft.merging.method import Elementwise, OrderStatistics, last_dropped
from saft.merging.plan import MergeConfig, Plan, check
from saft.merging.statistics import SUM_GRAIN, gather, prepare
from saft.tensorfile import TensorWriter, view

__all__ = [
    "MergeConfig",
    "Plan",
    "Progress",
    "apply",
    "check",
    "merge_task_vectors",
    "stream",
    "task_vectors",
    "write",
]

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read in all."""

_BLOCK_ELEMENTS = 1 << 18
"""Elements of a block, all tasks together: 1 MiB, so that what a method makes of it stays in the cache."""


def merge_task_vectors(method: Elementwise, task_vectors: Tensor) -> Tensor:
    """Merge task vectors that are in memory.

    Args:
        method: how.
        task_vectors: [n_tasks, n], any floating dtype; taken as one model.

    Returns:
        The merged task vector, float32 [n], without λ.

    Example:
        >>> from saft.merging.methods.task_arithmetic import TaskArithmetic
        >>> merge_task_vectors(TaskArithmetic(), torch.eye(2))
        tensor([1., 1.])
    """
    block = task_vectors.float()
    tasks, count = block.shape
    return prepare(method, tasks, count, lambda: [block])(block)


def apply(base: Tensor, task_vector: Tensor, scaling: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return base + scaling · task_vector, computed in float32 and cast once.

    Args:
        base: weights, any shape and floating dtype.
        task_vector: of the same shape, float32.
        scaling: λ.
        dtype: of the result; default: the base's.

    Returns:
        The merged weights; the same bits that `write` writes.
    """
    return (task_vector * scaling).add_(base.float()).to(dtype or base.dtype)


def task_vectors(plan: Plan, density: float = 1.0) -> Iterator[tuple[str, Tensor]]:
    """Read the task vectors in blocks, trimmed as TIES trims them over the whole model.

    Args:
        plan: from `check`; its method does not matter.
        density: fraction of the entries of each task that are kept, in (0, 1]; 1 keeps all.

    Yields:
        Name of the tensor and a block of its task vectors, float32 [n_tasks, n], in the order of the plan.
    """

    def blocks() -> Iterator[Tensor]:
        return (block for name in plan.merged for block in _blocks(plan, name))

    threshold = torch.zeros(len(plan.models), 1)
    if density < 1:
        count = sum(plan.base.headers[name].count for name in plan.merged)
        threshold = gather(OrderStatistics(torch.abs, (last_dropped(count, density),)), blocks)
    for name in plan.merged:
        for block in _blocks(plan, name):
            yield name, block.mul_(block.abs().ge_(threshold))


def stream(plan: Plan, progress: Progress | None = None) -> Iterator[tuple[str, Tensor]]:
    """Merge tensor by tensor, with one tensor of the result and a block of every model in memory.

    Args:
        plan: from `check`.
        progress: told about bytes read, in all passes.

    Yields:
        Name and merged task vector, float32, of the base's shape, without λ; in the order of `plan.merged`.

    Raises:
        UserError: an input holds NaN or infinity; the message names file and tensor.
    """
    method, tasks = plan.method, len(plan.models)
    read, to_read = 0, plan.bytes_per_pass * plan.passes

    def blocks(names: Iterable[str]) -> Iterator[Tensor]:
        nonlocal read
        for name in names:
            yield from _blocks(plan, name)
            read += sum(source.headers[name].nbytes for source in (plan.base, *plan.models.values()))
            if progress:
                progress(read, to_read)

    def prepared(names: Sequence[str]) -> Callable[[Tensor], Tensor]:
        count = sum(plan.base.headers[name].count for name in names)
        # Sorted, so that a sum of floats does not depend on the order in which the output is written.
        return prepare(method, tasks, count, lambda: blocks(sorted(names)))

    whole_model = getattr(method, "granularity", "model") == "model"
    function = prepared(plan.merged) if whole_model else None
    for name in plan.merged:
        header = plan.base.headers[name]
        of_block = function or prepared([name])
        merged, start = torch.empty(header.count), 0
        for block in blocks([name]):
            stop = start + block.shape[1]
            merged[start:stop] = of_block(block)
            start = stop
        yield name, merged.view(header.shape)


def _blocks(plan: Plan, name: str) -> Iterator[Tensor]:
    """Read the task vectors of one tensor, in blocks [n_tasks, n] of float32."""
    base = view(plan.base.headers[name]).reshape(-1)
    models = [view(source.headers[name]).reshape(-1) for source in plan.models.values()]
    length = max(_BLOCK_ELEMENTS // len(models) // SUM_GRAIN, 1) * SUM_GRAIN
    for start in range(0, len(base), length):
        part = base[start : start + length].float()
        block = torch.empty(len(models), len(part))
        for row, model in zip(block, models, strict=True):
            torch.sub(model[start : start + length].float(), part, out=row)
        if not _finite(block):
            _refuse(plan, name)
        yield block


def _finite(tensor: Tensor) -> bool:
    # One sum is 20 times as fast as a test of each element, but may overflow where every element is finite.
    return math.isfinite(tensor.float().sum()) or bool(torch.isfinite(tensor).all())


def _refuse(plan: Plan, name: str) -> NoReturn:
    """Say which input makes the task vectors of `name` not finite."""
    problems = []
    for source in (plan.base, *plan.models.values()):
        header = source.headers[name]
        bad = int(header.count - torch.isfinite(view(header).float()).sum())
        if bad:
            problems.append(
                f"{header.file}: '{name}' holds NaN or infinity ({bad} of {header.count} numbers); "
                "that model diverged or is damaged: train it again, or leave it out"
            )
    raise UserError(
        *problems or [f"'{name}': fine-tuned and base weights differ by more than float32 can hold"]
    )


def write(
    plan: Plan,
    out: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    merged: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Write base + λ · merged task vector as a checkpoint folder, tensor by tensor.

    Args:
        plan: from `check`.
        out: the folder; it appears when it is complete.
        overwrite: replace a folder that is there.
        progress: told about bytes read.
        merged: what `stream` has given for this method and these models, where a caller still holds it; so
            a λ that was found by trying costs no second merge.

    Raises:
        UserError: an input is not finite, the result does not fit its dtype, or `out` is not empty.
    """
    sources = [plan.base, *plan.models.values()]
    files = {source.folder: weight_files(source.folder) for source in sources}
    with staged(out, overwrite) as folder, ThreadPoolExecutor(1) as hasher:
        # The digests are taken beside the merge: hashing reads the same files, and keeps one core busy.
        digests = {file: hasher.submit(fingerprint, file) for found in files.values() for file in found}
        try:
            with TensorWriter(folder / WEIGHTS, plan.layout) as writer:
                task_vectors = iter(stream(plan, progress) if merged is None else merged)
                for name in writer.names:
                    if name in plan.copied:
                        writer.write(name, view(plan.base.headers[name]).to(plan.layout[name][0]))
                        continue
                    found, task_vector = next(task_vectors)
                    if found != name:
                        raise ValueError(
                            f"the merged task vectors are not in the plan's order: {found}, {name}"
                        )
                    writer.write(name, _merged(plan, name, task_vector))
        except BaseException:
            hasher.shutdown(wait=False, cancel_futures=True)
            raise
        record.write(plan, folder, {file: digest.result() for file, digest in digests.items()})


def _merged(plan: Plan, name: str, task_vector: Tensor) -> Tensor:
    dtype = plan.layout[name][0]
    result = apply(view(plan.base.headers[name]), task_vector, plan.scaling, dtype)
    if not _finite(result):
        raise UserError(
            f"'{name}': the merged weights do not fit {str(dtype).removeprefix('torch.')} at scaling "
            f"{plan.scaling:g}; write with dtype: float32 or bfloat16, or scale less"
        )
    return result
