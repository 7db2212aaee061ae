"""The merge itself: blocks of task vectors through a method, tensor by tensor, and the folder that comes
out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from saft.checkpoint import WeightsWriter, fingerprint, staged
from saft.errors import UserError
from saft.merging import record
from saft.merging.block import Block
from saft.merging.method import Method, OrderStatistics, last_dropped, magnitudes
from saft.merging.plan import MergeConfig, Plan, check
from saft.merging.reader import Progress, Reader, all_finite, one_torch_thread
from saft.merging.statistics import gather, prepare

__all__ = [
    "MergeConfig",
    "Plan",
    "Progress",
    "apply",
    "check",
    "merge_task_vectors",
    "stream",
    "task_vectors",
    "thresholds",
    "write",
]


def merge_task_vectors(
    method: Method, task_vectors: Tensor, base: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Merge task vectors that are in memory.

    Args:
        method: how.
        task_vectors: [n_tasks, n], any floating dtype; taken as one model, of a single tensor. A method that
            takes whole tensors may be given any shape [n_tasks, ...].
        base: the base's weights, of the shape of one task vector; default: zeros.
        seed: of methods that draw random numbers.

    Returns:
        The merged task vector, float32 of the shape of one, without λ.

    Example:
        >>> from saft.merging.methods.task_arithmetic import TaskArithmetic
        >>> merge_task_vectors(TaskArithmetic(), torch.eye(2))
        tensor([1., 1.])
    """
    start = torch.zeros(task_vectors.shape[1:]) if base is None else base.float()
    block = Block(task_vectors.float(), start, seed=seed)
    return prepare(method, block.tasks, start.numel(), lambda function: [function(block)])(block)


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

    threshold = thresholds(plan, density) if density < 1 else torch.zeros(len(plan.models), 1)

    def trim(block: Block) -> Tensor:
        found = block.task_vectors.flatten(1)
        return found.abs().ge_(threshold).mul_(found)

    with Reader(plan) as reader:
        for name in plan.merged:
            for trimmed in reader.over([name])(trim):
                yield name, trimmed


def thresholds(plan: Plan, density: float) -> Tensor:
    """Return the smallest magnitude of each task that TIES keeps, over the whole model: float32 [n_tasks, 1].

    Args:
        plan: from `check`; its method does not matter.
        density: fraction of the entries of each task that are kept, in (0, 1].
    """
    count = sum(plan.base.headers[name].count for name in plan.merged)
    with Reader(plan) as reader:
        smallest = OrderStatistics(magnitudes, (last_dropped(count, density),))
        return gather(smallest, reader.over(plan.merged))


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
    with Reader(plan, progress) as reader:

        def prepared(names: Sequence[str]) -> Callable[[Block], Tensor]:
            count = sum(plan.base.headers[name].count for name in names)
            # Sorted, so that a sum of floats does not depend on the order in which the output is written.
            return prepare(plan.method, len(plan.models), count, reader.over(sorted(names)))

        whole_model = getattr(plan.method, "granularity", "model") == "model"
        function = prepared(plan.merged) if whole_model else None
        for name in plan.merged:
            header = plan.base.headers[name]
            merged, start = torch.empty(header.count), 0
            for part in reader.over([name])(function or prepared([name])):
                merged[start : start + part.numel()] = part.reshape(-1)
                start += part.numel()
            yield name, merged.view(header.shape)


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
    files = dict.fromkeys(file for source in sources for file in source.files)
    with staged(out, overwrite) as folder, ThreadPoolExecutor(1) as hasher:
        # The digests are taken beside the merge: hashing reads the same files, and keeps one core busy.
        digests = {file: hasher.submit(fingerprint, file) for file in files}
        try:
            with WeightsWriter(folder, plan.layout, plan.shard_size) as writer:
                task_vectors = iter(stream(plan, progress) if merged is None else merged)
                for name in writer.names:
                    if name in plan.copied:
                        writer.append(name, plan.base.tensor(name).to(plan.layout[name][0]))
                        continue
                    found, task_vector = next(task_vectors)
                    if found != name:
                        raise ValueError(
                            f"the merged task vectors are not in the plan's order: {found}, {name}"
                        )
                    writer.append(name, _merged(plan, name, task_vector))
        except BaseException:
            hasher.shutdown(wait=False, cancel_futures=True)
            raise
        record.write(plan, folder, {file: digest.result() for file, digest in digests.items()})


def _merged(plan: Plan, name: str, task_vector: Tensor) -> Tensor:
    dtype = plan.layout[name][0]
    with one_torch_thread():
        result = apply(plan.base.tensor(name), task_vector, plan.scaling, dtype)
        finite = all_finite(result)
    if not finite:
        raise UserError(
            f"'{name}': the merged weights do not fit {str(dtype).removeprefix('torch.')} at scaling "
            f"{plan.scaling:g}; write with dtype: float32 or bfloat16, or scale less"
        )
    return result
