"""A merge written as what all tasks share and a part of each: for methods that keep one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from saft.errors import UserError, abbreviated
from saft.files.checkpoint import BASE_WEIGHTS, PARTS
from saft.files.sentence_modules import module_of
from saft.files.tensorfile import Layout, TensorWriter
from saft.merging.inputs.task_parts import SHARED, part_file
from saft.merging.merge_config import MergeConfig
from saft.merging.method import Method
from saft.merging.outputs.output import OUTPUTS, Output, Written
from saft.merging.outputs.target_folder import file_name_problems
from saft.merging.per_task import PerTaskMethod, PerTaskParts
from saft.merging.plan import Plan
from saft.merging.stream.gathering import run_steps
from saft.merging.stream.reader import Progress, Reader, all_finite

__all__ = ["PartPerTask", "kept_bytes", "kept_of"]


@OUTPUTS.register("parts")
@dataclass(frozen=True)
class PartPerTask(Output):
    """What all tasks share, and a file for each task.

    There are no weights at the top: no reader must take the folder for a model, which it is only together
    with a task (`saft.load_task`) or a router (`saft.load_mixture`).

    Args:
        method: that keeps the parts.
    """

    method: PerTaskMethod
    by_name = False
    precedence = 3

    @classmethod
    def asked_for(cls, config: MergeConfig, method: Method) -> PartPerTask | None:
        """Return it where the method gives nothing else."""
        return cls(method) if isinstance(method, PerTaskMethod) else None

    def conflicts(self, config: MergeConfig) -> Iterator[str]:
        """Yield what does not go with a part per task."""
        yield from file_name_problems(config.by_task())
        if config.lines is not None:
            gives = self.method.gives
            yield f"lines: '{config.method}' gives {gives}; LiNeS scales the layers of one merged model"
        if config.adapter_rank is not None:
            yield f"adapter_rank: {config.method} keeps a part per task, and no adapter can; leave it out"
        if config.interventions is not None:
            yield f"interventions: {config.method} gives each task its own model already; leave them out"
        if config.varying:
            yield f"varying: {config.method} keeps a part per task; its parameters cannot vary"
        if config.shard_size is not None:
            yield f"shard_size: {config.method} does not write shards; leave it out"

    def problems(self, plan: Plan) -> Iterator[str]:
        """Yield a message where there is nothing to keep."""
        if not any(math.prod(plan.layout[name][1]) for name in plan.merged):
            yield f"base: {plan.base.folder}: {plan.config.method} finds no tensor to work on"
        if modules := {module_of(name) for name in plan.layout} - {""}:
            yield (
                f"base: {plan.base.folder}: the modules {abbreviated(sorted(modules))} have weights, which "
                f"{plan.config.method} cannot keep a part of; give the base and the models without them"
            )

    def bytes(self, plan: Plan) -> int:
        """Return the bytes of the base, of what all share, and of the parts."""
        shared, each = kept_bytes(self.method, _shapes(plan))
        return _nbytes(_base_layout(plan)) + shared + len(plan.models) * each

    def write(self, plan: Plan, folder: Path, progress: Progress | None = None) -> Written:
        """Write the base, what all tasks share, and a part for each task, tensor by tensor.

        Raises:
            UserError: as `Output.write`.
        """
        (folder / BASE_WEIGHTS).parent.mkdir()
        with TensorWriter(folder / BASE_WEIGHTS, _base_layout(plan)) as writer:
            for name in writer.names:
                writer.append(name, plan.base.tensor(name))
        rescalers = self._write_parts(plan, folder, progress)
        manifest = {"kind": "parts", "rescalers": dict(zip(plan.models, rescalers, strict=True))}
        return Written(manifest, _CARD.format(task=next(iter(plan.models))))

    def _write_parts(self, plan: Plan, folder: Path, progress: Progress | None) -> list[float]:
        """Write shared/vector.safetensors and parts/<task>.safetensors; return the factor of each task."""
        rescalers = [1.0] * len(plan.models)
        (folder / PARTS).mkdir()
        with ExitStack() as stack:

            def opened(file: Path, layout: Layout) -> _AnyOrder:
                return _AnyOrder(stack.enter_context(TensorWriter(file, layout)), layout)

            shapes = _shapes(plan)
            shared_layout = self.method.shared_layout(shapes)
            shared = opened(folder / SHARED, shared_layout) if shared_layout else None
            layout = self.method.part_layout(shapes)
            parts = [opened(part_file(folder, task), layout) for task in plan.models]
            for name, kept in kept_of(plan, self.method, progress):
                if shared is not None and kept.vector is not None:
                    if not all_finite(kept.vector.float()):
                        raise UserError(f"'{name}': the merged task vector exceeds what float32 can hold")
                    shared.append(name, kept.vector)
                for row, part in enumerate(parts):
                    for piece, rows in kept.parts.items():
                        part.append(f"{name}.{piece}", rows[row])
                rescalers = kept.rescalers.tolist()
        return rescalers


def kept_of(
    plan: Plan, method: PerTaskMethod, progress: Progress | None = None
) -> Iterator[tuple[str, PerTaskParts]]:
    """Yield what is kept of every tensor, block by block, in the order of the names.

    Args:
        plan: from `check`.
        method: of the plan.
        progress: called with the bytes read, in all passes.

    Yields:
        Name of the tensor, and what is kept of its next block.
    """
    names = sorted(plan.merged)
    count = sum(plan.base.headers[name].count for name in names)
    with Reader(plan, progress) as reader:
        steps = method.split(len(plan.models), count)
        function = run_steps(steps, reader.blocks(names), plan.device)
        for name in names:
            for kept in reader.map_blocks([name], function):
                yield name, kept


_CARD = """
## How to load

This folder holds no single model, but what all tasks share (`shared/`: the base, and a vector where they
share one) and a part of each task (`parts/`). What is said above of the merged weights holds for each task
with its own part. A task's model:

```python
model = saft.load_task("this/folder", "{task}")
```
"""


def _base_layout(plan: Plan) -> Layout:
    """Return the base's tensors, as they are stored there."""
    return {name: (header.dtype, header.shape) for name, header in plan.base.headers.items()}


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {name: plan.layout[name][1] for name in plan.merged}


def kept_bytes(method: PerTaskMethod, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Return the bytes that are kept beside the base: of what all tasks share, and of the part of each task.

    Args:
        method: that keeps them.
        shapes: of the model's tensors of floats.

    Example:
        >>> from saft.merging.methods.emr import Emr
        >>> kept_bytes(Emr(), {"weight": (20, 30)})  # a float32 for all tasks, a bit for each
        (2400, 75)
    """
    wanted = {name: shapes[name] for name in method.wanted(shapes)}
    return _nbytes(method.shared_layout(wanted)), _nbytes(method.part_layout(wanted))


def _nbytes(layout: Layout) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())


class _AnyOrder:
    """Writes tensors to a file in the file's order, and holds those that come before their turn."""

    def __init__(self, writer: TensorWriter, layout: Layout) -> None:
        self._writer, self._layout = writer, layout
        # A tensor without elements has no bytes, and may never come.
        self._order = deque(name for name in writer.names if math.prod(layout[name][1]))
        self._waiting: dict[str, list[Tensor]] = {}
        self._elements = 0  # of the first in the order, those that were written

    def append(self, name: str, part: Tensor) -> None:
        """Write the next elements of a tensor, cast to its dtype."""
        dtype, _ = self._layout[name]
        self._waiting.setdefault(name, []).append(part.to(dtype))
        while self._order and self._order[0] in self._waiting:
            first = self._order[0]
            for waiting in self._waiting.pop(first):
                self._writer.append(first, waiting)
                self._elements += waiting.numel()
            if self._elements == math.prod(self._layout[first][1]):
                self._order.popleft()
                self._elements = 0
