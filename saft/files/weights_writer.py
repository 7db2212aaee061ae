"""The weights of a folder, written as they are made: one file, or shards and their index."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from saft.files.checkpoint import INDEX, WEIGHTS
from saft.files.finished_shards import FinishedShards
from saft.files.sentence_modules import module_of
from saft.files.tensorfile import Layout, TensorWriter, file_order

__all__ = ["WeightsWriter", "shard_layouts", "write_order"]


class WeightsWriter:
    """Writes the weights of a folder as they are made: one file, or shards and their index.

    Args:
        folder: to write to; exists.
        layout: name -> (dtype, shape) of every tensor; those without elements need not be written. Those of
            sentence-transformers' modules (`2_Dense/linear.weight`) go to the folders of their modules.
        shard_size: bytes of tensors that a file may hold; a larger tensor has a file for itself. Default: no
            limit.

    What `FinishedShards` has noted in the folder is not written again: `names` are the others.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> layout = {name: (torch.float32, (2,)) for name in "ab"}
        >>> with WeightsWriter(folder, layout, shard_size=8) as writer:
        ...     for name in writer.names:
        ...         writer.append(name, torch.ones(2))
        >>> sorted(file.name for file in folder.glob("*.safetensors"))
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """

    def __init__(self, folder: Path, layout: Layout, shard_size: int | None = None) -> None:
        self.folder = folder
        shards = shard_layouts(layout, shard_size)
        self._file = {name: file for file, part in shards.items() for name in part}
        self._own = {name: file for name, file in self._file.items() if not module_of(name)}
        self._bytes = sum(_nbytes(layout, name) for name in self._own)
        self._finished = FinishedShards(folder)
        done = self._finished.names
        self.names = [name for name in write_order(layout) if self._file[name] not in done]
        self._writers = deque(
            TensorWriter(folder / file, {_short(name): form for name, form in part.items()})
            for file, part in shards.items()
            if file not in done
        )

    def __enter__(self) -> WeightsWriter:
        self._open()
        return self

    def append(self, name: str, part: Tensor) -> None:
        """Write the next elements of a tensor, in any shape; the order of the tensors is that of `names`."""
        while self._writers[0].file != self.folder / self._file[name]:
            self._next_shard()
        self._writers[0].append(_short(name), part)

    def _open(self) -> None:
        if self._writers:
            self._writers[0].file.parent.mkdir(exist_ok=True)
            self._writers[0].__enter__()

    def _next_shard(self) -> None:
        writer = self._writers.popleft()
        writer.__exit__(None, None, None)
        self._finished.add(str(writer.file.relative_to(self.folder)))
        self._open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while kind is None and self._writers:  # the last, and those of tensors without elements
            self._next_shard()
        if self._writers:
            self._writers[0].__exit__(kind, error, trace)
        if kind is None and WEIGHTS not in self._own.values():
            index = {"metadata": {"total_size": self._bytes}, "weight_map": dict(sorted(self._own.items()))}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def write_order(layout: Layout) -> list[str]:
    """Return the names in the order in which a folder's weights are written: the trunk's, then each module's.

    Args:
        layout: of every tensor.
    """
    return [name for part in _modules(layout).values() for name in file_order(part)]


def shard_layouts(layout: Layout, shard_size: int | None) -> dict[str, Layout]:
    """Return the path of each file of weights in the folder -> its part of `layout`.

    Args:
        layout: of every tensor.
        shard_size: see `WeightsWriter`.
    """
    shards: dict[str, Layout] = {}
    for module, part in _modules(layout).items():
        shards |= {f"{module}/{WEIGHTS}": part} if module else _shards(part, shard_size)
    return shards


def _modules(layout: Layout) -> dict[str, Layout]:
    """Return module -> its part of a layout; the trunk, "", is first."""
    parts: dict[str, dict[str, tuple[torch.dtype, tuple[int, ...]]]] = {"": {}}
    for name in sorted(layout):
        parts.setdefault(module_of(name), {})[name] = layout[name]
    return {module: part for module, part in parts.items() if part}


def _short(name: str) -> str:
    """Return the name that a tensor has in its file."""
    return name.removeprefix(f"{module_of(name)}/") if module_of(name) else name


def _shards(layout: Layout, shard_size: int | None) -> dict[str, Layout]:
    """Return file name -> its part of `layout`."""
    parts: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = []
    room = 0
    for name in file_order(layout):
        size = _nbytes(layout, name)
        if not parts or (shard_size is not None and size > room):
            parts.append({})
            room = shard_size or 0
        parts[-1][name] = layout[name]
        room = max(room - size, 0)
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {f"model-{at:05}-of-{len(parts):05}.safetensors": part for at, part in enumerate(parts, start=1)}


def _nbytes(layout: Layout, name: str) -> int:
    dtype, shape = layout[name]
    return math.prod(shape) * dtype.itemsize
