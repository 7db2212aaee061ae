"""A folder that holds a part per task in place of weights, read back: the model of one task at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.config import Range
from saft.errors import UserError, did_you_mean
from saft.files.checkpoint import BASE_WEIGHTS, MANIFEST, PARTS, read_manifest, task_names
from saft.files.links import inside
from saft.files.tensorfile import TensorHeader, read_headers, view
from saft.merging.dtypes import ARITHMETIC, DTYPES
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream.engine import apply, cast
from saft.merging.stream.reader import all_finite

__all__ = ["SHARED", "Parts", "part_file", "read"]

SHARED = "shared/vector.safetensors"


def part_file(folder: Path, task: str) -> Path:
    """Return the file that holds the part of a task."""
    return folder / PARTS / f"{task}.safetensors"


@dataclass(frozen=True)
class Parts:
    """A folder that a merge has written with a part per task.

    Args:
        folder: where it is.
        manifest: what its saft.json says.
        method: that made it.
        base: name -> header of the base's tensors.
        shared: name -> header of what all tasks share; empty where it is only the base.
    """

    folder: Path
    manifest: Mapping[str, Any]
    method: PerTaskMethod
    base: Mapping[str, TensorHeader]
    shared: Mapping[str, TensorHeader]

    @property
    def tasks(self) -> list[str]:
        """The tasks that have a part."""
        return task_names(self.manifest)

    @property
    def scaling(self) -> float:
        """λ."""
        return float(self.manifest["scaling"])

    @property
    def arithmetic(self) -> torch.dtype:
        """Precision of everything between reading and writing."""
        return ARITHMETIC[self.manifest["arithmetic"]]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a tensor of a task's model has."""
        stored, asked = self.base[name].dtype, self.manifest["dtype"]
        return DTYPES[asked] if asked and stored.is_floating_point else stored

    def part(self, task: str) -> dict[str, dict[str, Tensor]]:
        """Return name of a tensor -> the pieces that a task has of it, as views of the file.

        Returns:
            Name of the tensor -> name of the piece -> the piece, in its shape by the method's `layout`.

        Raises:
            UserError: there is no such task, or the folder is damaged.
        """
        if task not in self.tasks:
            raise UserError(f"{self.folder}: has no part for '{task}'{did_you_mean(task, self.tasks)}")
        file = part_file(self.folder, task)
        pieces_by_name: dict[str, dict[str, Tensor]] = {}
        for key, header in _headers(self.folder, str(file.relative_to(self.folder))).items():
            name, _, piece = key.rpartition(".")
            pieces_by_name.setdefault(name, {})[piece] = view(header)
        for name, pieces in pieces_by_name.items():
            layout = self.method.layout(self.base[name].shape) if name in self.base else {}
            if {key: (piece.dtype, tuple(piece.shape)) for key, piece in pieces.items()} != dict(layout):
                raise UserError(f"{file}: '{name}' does not fit {self.folder / BASE_WEIGHTS}; merge again")
        return pieces_by_name

    def task_tensors(self, task: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of a task's model, one tensor at a time: base + λ · the task's own vector.

        Yields:
            Name and weights, in the shape and dtype of the base's tensor.

        Raises:
            UserError: there is no such task, or a weight does not fit its dtype.
        """
        part, rescaler = self.part(task), float(self.manifest["rescalers"][task])
        for name, header in self.base.items():
            dtype = self.dtype(name)
            if name not in part:
                yield name, cast(name, view(header), dtype)
                continue
            vector = view(self.shared[name]) if self.method.shares else None
            own = self.method.restored(header.shape, vector, part[name], rescaler)
            weights = apply(view(header), own.to(self.arithmetic), self.scaling, dtype)
            if not all_finite(weights):
                raise UserError(f"{self.folder}: '{name}' of task '{task}' does not fit {dtype}")
            yield name, weights


def read(folder: str | Path) -> Parts:
    """Read a folder that holds a part per task, only from its manifest and headers.

    Raises:
        UserError: it holds something else, or is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.get("kind") != "parts":
        raise UserError(
            f"{folder}: holds one model and no part per task; load it with AutoModel.from_pretrained"
        )
    if problem := _damage(manifest):
        raise UserError(f"{folder / MANIFEST}: {problem}; merge again, or copy the folder again")
    kind = METHODS.get(manifest["method"])
    if not issubclass(kind, PerTaskMethod):
        raise UserError(f"{folder / MANIFEST}: '{manifest['method']}' is not a method that keeps parts")
    method = kind.build(manifest["parameters"])
    shared = _headers(folder, SHARED) if method.shares else {}
    base = _headers(folder, BASE_WEIGHTS)
    wrong = [name for name, header in shared.items() if name not in base or header.shape != base[name].shape]
    if wrong:
        raise UserError(f"{folder / SHARED}: '{wrong[0]}' does not fit {folder / BASE_WEIGHTS}; merge again")
    return Parts(folder, manifest, method, base, shared)


def _damage(manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a manifest: it came with a folder, and what it names is not trusted."""
    if manifest.get("method") not in METHODS.names():  # a method of another package would be run
        return f"its method is {manifest.get('method')!r}, which is not one of saft's"
    tasks = task_names(manifest)
    rescalers = manifest.get("rescalers")
    if not tasks or not isinstance(rescalers, dict) or rescalers.keys() != set(tasks):
        return "models and rescalers do not name the same tasks"
    numbers = [manifest.get("scaling"), *rescalers.values()]
    if any(map(Range().problem, numbers)):
        return "scaling and rescalers must be finite numbers"
    if manifest.get("arithmetic") not in [*ARITHMETIC] or manifest.get("dtype") not in [None, *DTYPES]:
        return "arithmetic or dtype is unknown"
    if not isinstance(manifest.get("parameters"), dict):
        return "parameters must be a mapping"
    return None


def _headers(folder: Path, name: str) -> dict[str, TensorHeader]:
    file = inside(folder, name)
    if not file.is_file():
        raise UserError(f"{file}: is missing; the folder is damaged, merge or copy it again")
    return read_headers(file)
