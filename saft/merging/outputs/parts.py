"""The folder of a method that keeps a part per task: what all tasks share, and a file for each of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.errors import UserError, did_you_mean
from saft.files.checkpoint import BASE_WEIGHTS, PARTS, read_manifest, staged, write_manifest
from saft.files.tensorfile import Layout, TensorHeader, TensorWriter, read_headers, view
from saft.merging.config import ARITHMETIC, DTYPES
from saft.merging.methods import METHODS
from saft.merging.outputs import record
from saft.merging.outputs.target_folder import check_room, file_name_problems
from saft.merging.per_task import Keeping, Kept
from saft.merging.plan import Plan
from saft.merging.stream.engine import apply
from saft.merging.stream.order_statistics import answered
from saft.merging.stream.reader import Progress, Reader, all_finite

__all__ = ["Parts", "PartsPlan", "planned", "read", "write"]

SHARED = "shared/vector.safetensors"


@dataclass(frozen=True)
class PartsPlan(Plan):
    """The plan of a method that keeps a part per task; `layout` is that of one task's model."""

    @property
    def keeping(self) -> Keeping:
        """The method."""
        assert isinstance(self.method, Keeping)
        return self.method

    @property
    def base_layout(self) -> Layout:
        """The base's tensors, as they are stored there."""
        return {name: (header.dtype, header.shape) for name, header in self.base.headers.items()}

    @property
    def shared_layout(self) -> Layout:
        """What all tasks share."""
        names = self.merged if self.keeping.shares else ()
        return {name: (torch.float32, self.layout[name][1]) for name in names}

    @property
    def part_layout(self) -> Layout:
        """What each task has for itself."""
        return {
            f"{name}.{piece}": form
            for name in self.merged
            for piece, form in self.keeping.layout(self.layout[name][1]).items()
        }

    @property
    def bytes_out(self) -> int:
        """Bytes of weights that are written."""
        shared = _nbytes(self.base_layout) + _nbytes(self.shared_layout)
        return shared + len(self.models) * _nbytes(self.part_layout)


def _nbytes(layout: Layout) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())


def planned(plan: Plan, out: str | Path | None = None) -> PartsPlan:
    """Return the plan of a method that keeps parts: only the tensors that it works on are merged.

    Args:
        plan: from `engine.check`.
        out: where the result will go, to check the room on the disk.

    Raises:
        UserError: the method finds nothing to work on, a task cannot name a file, shards are asked for, or
            the disk is too full.
    """
    assert isinstance(plan.method, Keeping)
    problems = file_name_problems(plan.models)
    if plan.shard_size is not None:
        problems.append(f"shard_size: {plan.config.method} does not write shards; leave it out")
    wanted = set(plan.method.wanted({name: plan.layout[name][1] for name in plan.merged}))
    if not any(math.prod(plan.layout[name][1]) for name in wanted):
        problems.append(f"base: {plan.base.folder}: {plan.config.method} finds no tensor to work on")
    if problems:
        raise UserError(*problems)
    values: dict[str, Any] = {item.name: getattr(plan, item.name) for item in fields(plan)}
    values["merged"] = tuple(name for name in plan.merged if name in wanted)
    values["copied"] = tuple(sorted(plan.layout.keys() - wanted))
    narrowed = PartsPlan(**values)
    if out is not None:
        check_room(Path(out), narrowed.bytes_out)
    return narrowed


def write(
    plan: PartsPlan, out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> None:
    """Write the base, what all tasks share, and a part for each task, tensor by tensor.

    There are no weights at the top: no reader shall take the folder for a model, which it is only together
    with a task (`saft.load_task`) or a router (`saft.load_mixture`).

    Args:
        plan: from `planned`.
        out: the folder; it appears when it is complete.
        overwrite: replace a folder that is there.
        progress: told about bytes read.

    Raises:
        UserError: an input is not finite, or `out` is not empty.
    """
    with staged(out, overwrite) as folder, record.digests(plan) as digests:
        (folder / BASE_WEIGHTS).parent.mkdir()
        with TensorWriter(folder / BASE_WEIGHTS, plan.base_layout) as writer:
            for name in writer.names:
                writer.append(name, plan.base.tensor(name))
        rescalers = _write_parts(plan, folder, progress)
        found = digests()
        record.write(plan, folder, found)
        kept = {"kind": "parts", "rescalers": dict(zip(plan.models, rescalers, strict=True))}
        write_manifest(folder, record.manifest(plan, found) | kept)
        with (folder / "README.md").open("a", encoding="utf-8") as card:
            card.write(_HOW_TO_LOAD.format(task=next(iter(plan.models))))


_HOW_TO_LOAD = """
## How to load

This folder holds no single model, but what all tasks share (`shared/`: the base, and a vector where they
share one) and a part of each task (`parts/`). What is said above of the merged weights holds for each task
with its own part. A task's model:

```python
model = saft.load_task("this/folder", "{task}")
```
"""


def _write_parts(plan: PartsPlan, folder: Path, progress: Progress | None) -> list[float]:
    """Write shared/vector.safetensors and parts/<task>.safetensors; return the factor of each task."""
    rescalers = [1.0] * len(plan.models)
    (folder / PARTS).mkdir()
    with ExitStack() as stack:

        def opened(file: Path, layout: Layout) -> _AnyOrder:
            return _AnyOrder(stack.enter_context(TensorWriter(file, layout)), layout)

        shared = opened(folder / SHARED, plan.shared_layout) if plan.shared_layout else None
        layout = plan.part_layout
        parts = [opened(_part_file(folder, task), layout) for task in plan.models]
        for name, kept in _stream(plan, progress):
            if shared is not None and kept.vector is not None:
                if not all_finite(kept.vector.float()):
                    raise UserError(f"'{name}': the merged task vector exceeds what float32 can hold")
                shared.append(name, kept.vector)
            for row, part in enumerate(parts):
                for piece, rows in kept.parts.items():
                    part.append(f"{name}.{piece}", rows[row])
            rescalers = kept.rescalers.tolist()
    return rescalers


def _stream(plan: PartsPlan, progress: Progress | None) -> Iterator[tuple[str, Kept]]:
    """Give the name of a tensor and what is kept of a block of it, in order."""
    names = sorted(plan.merged)
    count = sum(plan.base.headers[name].count for name in names)
    with Reader(plan, progress) as reader:
        steps = plan.keeping.keep(len(plan.models), count)
        function = answered(steps, reader.over(names), plan.device)
        for name in names:
            for kept in reader.over([name])(function):
                yield name, kept


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


def _part_file(folder: Path, task: str) -> Path:
    return folder / PARTS / f"{task}.safetensors"


@dataclass(frozen=True)
class Parts:
    """A folder that `write` has written.

    Args:
        folder: where it is.
        manifest: what its saft.json says.
        method: that made it.
        base: name -> header of the base's tensors.
        shared: name -> header of what all tasks share; empty where it is the base alone.
    """

    folder: Path
    manifest: Mapping[str, Any]
    method: Keeping
    base: Mapping[str, TensorHeader]
    shared: Mapping[str, TensorHeader]

    @property
    def tasks(self) -> list[str]:
        """The tasks that have a part."""
        return [model["task"] for model in self.manifest["models"]]

    @property
    def scaling(self) -> float:
        """λ."""
        return float(self.manifest["scaling"])

    @property
    def arithmetic(self) -> torch.dtype:
        """Of everything between reading and writing."""
        return ARITHMETIC[self.manifest["arithmetic"]]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a tensor of a task's model has."""
        stored, asked = self.base[name].dtype, self.manifest["dtype"]
        return DTYPES[asked] if asked and stored.is_floating_point else stored

    def part(self, task: str) -> dict[str, dict[str, Tensor]]:
        """Return name of a tensor -> the pieces that a task has of it, as views of the file.

        Raises:
            UserError: there is no such task, or the folder is damaged.
        """
        if task not in self.tasks:
            raise UserError(f"{self.folder}: has no part for '{task}'{did_you_mean(task, self.tasks)}")
        file = _part_file(self.folder, task)
        found: dict[str, dict[str, Tensor]] = {}
        for key, header in _headers(file).items():
            name, _, piece = key.rpartition(".")
            found.setdefault(name, {})[piece] = view(header)
        for name, pieces in found.items():
            layout = self.method.layout(self.base[name].shape) if name in self.base else {}
            if {key: (piece.dtype, tuple(piece.shape)) for key, piece in pieces.items()} != dict(layout):
                raise UserError(f"{file}: '{name}' does not fit {self.folder / BASE_WEIGHTS}; merge again")
        return found

    def task_tensors(self, task: str) -> Iterator[tuple[str, Tensor]]:
        """Give the weights of a task's model, one tensor at a time: base + λ · the task's own vector.

        Raises:
            UserError: there is no such task, or a weight does not fit its dtype.
        """
        part, rescaler = self.part(task), float(self.manifest["rescalers"][task])
        for name, header in self.base.items():
            dtype = self.dtype(name)
            if name not in part:
                yield name, view(header).to(dtype)
                continue
            vector = view(self.shared[name]) if self.method.shares else None
            own = self.method.restored(header.shape, vector, part[name], rescaler)
            weights = apply(view(header), own.to(self.arithmetic), self.scaling, dtype)
            if not all_finite(weights):
                raise UserError(f"{self.folder}: '{name}' of task '{task}' does not fit {dtype}")
            yield name, weights


def read(folder: str | Path) -> Parts:
    """Read a folder that holds a part per task, from its manifest and headers alone.

    Raises:
        UserError: it holds something else, or is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.get("kind") != "parts":
        raise UserError(
            f"{folder}: holds one model and no part per task; load it with AutoModel.from_pretrained"
        )
    kind = METHODS.get(manifest["method"])
    if not issubclass(kind, Keeping):
        raise UserError(f"{folder / 'saft.json'}: '{manifest['method']}' is no method that keeps parts")
    method = kind.build(manifest["parameters"])
    shared = _headers(folder / SHARED) if method.shares else {}
    return Parts(folder, manifest, method, _headers(folder / BASE_WEIGHTS), shared)


def _headers(file: Path) -> dict[str, TensorHeader]:
    if not file.is_file():
        raise UserError(f"{file}: is missing; the folder is damaged, merge or copy it again")
    return read_headers(file)
