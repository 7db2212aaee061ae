"""The merge itself: blocks of task vectors through a method, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from saft.errors import UserError
from saft.merging.layer_scaling import scaled
from saft.merging.method import Method, OrderStatistics, Tensorwise, last_dropped, magnitudes
from saft.merging.plan import Plan
from saft.merging.stream.block import Block
from saft.merging.stream.gathering import gather, on_device, prepare
from saft.merging.stream.reader import Progress, Reader, all_finite, one_torch_thread

__all__ = [
    "apply",
    "cast",
    "merge_task_vectors",
    "stream",
    "task_vectors",
    "thresholds",
    "weights",
    "weights_of",
]

T = TypeVar("T")

_CPU = torch.device("cpu")


def merge_task_vectors(
    method: Method,
    task_vectors: Tensor,
    base: Tensor | None = None,
    seed: int = 0,
    arithmetic: torch.dtype = torch.float32,
) -> Tensor:
    """Merge task vectors that are in memory.

    Args:
        method: how.
        task_vectors: [n_tasks, n], any floating dtype; taken as one model, of a single tensor. A method that
            takes whole tensors may be given any shape [n_tasks, ...].
        base: the base's weights, of the shape of one task vector; default: zeros.
        seed: of methods that draw random numbers.
        arithmetic: float32 or float64.

    Returns:
        The merged task vector, in the dtype of the arithmetic, on the device of the task vectors and of the
        shape of one, without λ.

    Example:
        >>> from saft.merging.methods.task_arithmetic import TaskArithmetic
        >>> merge_task_vectors(TaskArithmetic(), torch.eye(2))
        tensor([1., 1.])
    """
    device = task_vectors.device
    start = torch.zeros(task_vectors.shape[1:]) if base is None else base
    block = Block(task_vectors.to(arithmetic), start.to(device, arithmetic), seed=seed)

    def blocks(function: Callable[[Block], T]) -> list[T]:
        with on_device(device):
            return [function(block)]

    # Sums over a whole tensor, and so the last bits, depend on the number of threads.
    with one_torch_thread() if isinstance(method, Tensorwise) else nullcontext():
        return blocks(prepare(method, block.tasks, start.numel(), blocks, device))[0]


def apply(base: Tensor, task_vector: Tensor, scaling: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return base + scaling · task_vector, computed in the dtype of the task vector and cast once.

    Args:
        base: weights, any shape and floating dtype.
        task_vector: of the same shape, float32 or float64.
        scaling: λ.
        dtype: of the result; default: the base's.

    Returns:
        The merged weights; the same bits that `write` writes.
    """
    return (task_vector * scaling).add_(base.to(task_vector.dtype)).to(dtype or base.dtype)


def cast(name: str, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights that are copied from the base in the dtype of the result; infinity and NaN stay.

    Args:
        name: of the tensor, for messages.
        weights: all of it, or a part, of any shape.
        dtype: of the result.

    Raises:
        UserError: a number is too large for it.

    Example:
        >>> cast("head.bias", torch.tensor([1e5]), torch.float16)
        Traceback (most recent call last):
        saft.errors.UserError: 'head.bias': the base's weights do not fit float16; write with dtype: ...
    """
    result = weights.to(dtype)
    overflows = result.dtype != weights.dtype and not all_finite(result)
    if overflows and not result.isfinite().equal(weights.double().isfinite()):
        raise UserError(
            f"'{name}': the base's weights do not fit {str(dtype).removeprefix('torch.')}; write with dtype: "
            "float32 or bfloat16"
        )
    return result


def task_vectors(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Read the task vectors in blocks.

    Args:
        plan: from `check`; its method does not matter.

    Yields:
        Name of the tensor and a block of its task vectors, float32 [n_tasks, n], in the order of the plan.
    """
    with Reader(plan) as reader:
        for name in plan.merged:
            for rows in reader.map_blocks([name], lambda block: block.task_vectors.flatten(1)):
                yield name, rows


def thresholds(plan: Plan, density: float) -> Tensor:
    """Return the smallest magnitude of each task that TIES keeps, over the whole model: float32 [n_tasks, 1].

    Args:
        plan: from `check`; its method does not matter.
        density: fraction of the entries of each task that are kept, in (0, 1].
    """
    with Reader(plan) as reader:
        smallest = OrderStatistics(magnitudes, (last_dropped(plan.entries(plan.merged), density),))
        return gather(smallest, reader.blocks(plan.merged))


def stream(
    plan: Plan, progress: Progress | None = None, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Merge tensor by tensor, with one tensor of the result and a block of every model in memory.

    Args:
        plan: from `check`.
        progress: called with the bytes read, in all passes.
        only: names of tensors, without which the others are left out; statistics are of all, as ever.

    Yields:
        Name and merged task vector, in the dtype of the arithmetic and of the base's shape, without λ; in
        the order of `plan.merged`.

    Raises:
        UserError: an input holds NaN or infinity; the message names file and tensor.
    """
    with Reader(plan, progress) as reader:
        for names, function in _functions(plan, reader, only):
            for name in names:
                header = plan.base.headers[name]
                merged, start = torch.empty(header.count, dtype=plan.arithmetic), 0
                for part in reader.map_blocks([name], function):
                    merged[start : start + part.numel()] = part.reshape(-1)
                    start += part.numel()
                yield name, merged.view(header.shape)


def _functions(
    plan: Plan, reader: Reader, only: Collection[str] | None = None
) -> Iterator[tuple[Sequence[str], Callable[[Block], Tensor]]]:
    """Yield names of tensors and the function that merges their blocks, in the order of `plan.merged`."""

    def wanted(names: Sequence[str]) -> list[str]:
        return [name for name in names if only is None or name in only]

    def prepared(names: Sequence[str]) -> Callable[[Block], Tensor]:
        # Sorted, so that a sum of floats does not depend on the order in which the output is written.
        method = plan.by_tensor.get(names[0], plan.method)
        blocks, sample = reader.blocks(sorted(names)), reader.sample(names)
        return prepare(method, len(plan.models), plan.entries(names), blocks, plan.device, sample)

    if plan.config.lines is None:
        for names in plan.scopes:
            if left := wanted(names):
                yield left, prepared(names)
        return
    # The norms of the whole merged vector are needed before its first tensor can be scaled.
    by_name: dict[str, Callable[[Block], Tensor]] = {}
    for names in plan.scopes:
        by_name |= dict.fromkeys(names, prepared(names))

    def merge(block: Block) -> Tensor:
        return by_name[block.name](block)

    blocks = reader.blocks(sorted(plan.merged))
    yield wanted(plan.merged), scaled(plan.config.lines, len(plan.models), plan.layout, merge, blocks)


def weights(
    plan: Plan,
    progress: Progress | None = None,
    device: torch.device = _CPU,
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield base + λ · merged task vector, block by block, in the order of `plan.merged`.

    Args:
        plan: from `check`.
        progress: called with the bytes read, in all passes.
        device: of the result.
        only: names of tensors, without which the others are left out; statistics are of all, as ever.

    Yields:
        Name of the tensor and the next of its weights, [n], in the dtype of the output, on the device.

    Raises:
        UserError: an input is not finite, or the result does not fit its dtype.
    """
    with Reader(plan, progress) as reader:
        for names, function in _functions(plan, reader, only):

            def finished(block: Block, function: Callable[[Block], Tensor] = function) -> tuple[str, Tensor]:
                merged = _weights(plan, block.name, block.base, function(block))
                return block.name, merged if merged.device == device else merged.to(device)

            yield from reader.map_blocks(names, finished)


def weights_of(plan: Plan, merged: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the merged weights of task vectors that are merged already, tensor by tensor.

    Args:
        plan: from `check`; its scaling is λ.
        merged: name and merged task vector, in the tensor's shape, as `stream` gives them.

    Yields:
        Name and weights, as `weights` does.

    Raises:
        UserError: the result does not fit its dtype.
    """
    for name, task_vector in merged:
        with one_torch_thread():
            merged_weights = _weights(plan, name, plan.base.tensor(name), task_vector).cpu()
        yield name, merged_weights


def _weights(plan: Plan, name: str, base: Tensor, task_vector: Tensor) -> Tensor:
    dtype = plan.layout[name][0]
    exact = apply(base, task_vector, plan.scaling, task_vector.dtype)
    result = exact.to(dtype)
    # A float of eight bits has no infinity: what is too large for it becomes its largest number.
    if not all_finite(result) or (dtype.itemsize == 1 and (exact.abs() > torch.finfo(dtype).max).any()):
        raise UserError(
            f"'{name}': the merged weights do not fit {str(dtype).removeprefix('torch.')} at scaling "
            f"{plan.scaling:g}; write with dtype: float32 or bfloat16, or scale less"
        )
    return result
