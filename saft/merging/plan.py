"""The check before a merge: all that can be wrong, found from configs and headers alone, and told at once."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saft.errors import UserError, did_you_mean
from saft.files.checkpoint import HEADS
from saft.files.fingerprints import fingerprint
from saft.files.tensorfile import Layout, file_order
from saft.merging import layer_scaling
from saft.merging.config import (
    ARITHMETIC,
    DTYPES,
    VOCABULARIES,
    DataConfig,
    MergeConfig,
    device_problem,
    size_in_bytes,
)
from saft.merging.inputs.alignment import differences, factors_differ, fitted
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.inputs.source import Source
from saft.merging.inputs.tensor_names import can_be_factored
from saft.merging.method import Method, Tensorwise
from saft.merging.methods import METHODS
from saft.merging.outputs.target_folder import check_room, check_target
from saft.merging.per_task import Keeping
from saft.merging.stream.data_statistics import Collected
from saft.merging.stream.order_statistics import passes_needed
from saft.merging.varying import methods_by_tensor

__all__ = ["Plan", "MergeConfig", "Source", "check"]


_BLOCK_SIZES = {"cpu": 2**21, "cuda": 2**26}  # less, and Python takes longer than the arithmetic
_MOST_THREADS = 16  # more would wait for the memory, and take some

_AT_REST = 200 * 2**20
"""Bytes of Python, torch and saft itself, and of counters."""
_PER_THREAD = 56 * 2**20
"""Bytes that the allocator keeps for each thread."""


@dataclass(frozen=True)
class Plan:
    """A merge that has been checked: what will be read, merged, copied and written."""

    config: MergeConfig
    method: Method
    scaling: float
    base: Source
    models: Mapping[str, Source]
    merged: tuple[str, ...]
    """Names of the tensors that are merged, in the order of the file that will be written."""
    copied: tuple[str, ...]
    """Names of the tensors that come from the base: integers, and what was excluded."""
    layout: Layout
    """dtype and shape of every tensor of the output."""
    heads: Mapping[str, Path]
    """Heads that are carried along: file name -> file."""
    by_tensor: Mapping[str, Method]
    """The method of each tensor, where its parameters differ from tensor to tensor; else empty."""
    collected: Collected = field(default_factory=Collected)
    """What was read of data, for a method that collects; `check` leaves it empty."""

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that one pass over the tensors to merge reads."""
        sources = [self.base, *self.models.values()]
        return sum(source.headers[name].nbytes for source in sources for name in self.merged)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the method, and how they differ from tensor to tensor."""
        return self.method.parameters() | self.config.varying

    @property
    def passes(self) -> int:
        """How often the task vectors are read: for the statistics, and once to merge."""
        for_lines = self.config.lines is not None and self.config.lines.alpha is None
        return passes_needed(self.method, len(self.models), self.arithmetic) + for_lines

    @property
    def arithmetic(self) -> torch.dtype:
        """Of everything between reading and writing."""
        return ARITHMETIC[self.config.arithmetic]

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return torch.device(self.config.device)

    @property
    def shard_size(self) -> int | None:
        """Bytes of weights that a file may hold."""
        size = self.config.shard_size
        return None if size is None else size_in_bytes("shard_size", size)

    @property
    def block_size(self) -> int:
        """Bytes of the task vectors of a block, all tasks together."""
        size = self.config.block_size
        return _BLOCK_SIZES[self.device.type] if size is None else size_in_bytes("block_size", size)

    @property
    def threads(self) -> int:
        """Threads that work on blocks."""
        return min(torch.get_num_threads(), _MOST_THREADS)

    @property
    def memory(self) -> int:
        r"""Bytes of private memory that the merge is expected to need at most.

        .. math:: 200\,\text{MiB} + \text{threads} \cdot (56\,\text{MiB} + (K + 3) \cdot \text{piece})

        with the K models and, as the piece, a block (of all tasks together) or, for a method that takes whole
        tensors, the largest tensor. An input that is computed, such as an adapter's, adds two of its largest
        tensors: one that is worked on, and the next. A result that is factored for an adapter adds twelve of
        the largest matrix, for its decomposition in float64 and what is around it, and the adapter. Files
        that are read do not count: the kernel drops their pages when it needs room.
        """
        largest = max(self.base.headers[name].count for name in self.merged) * self.arithmetic.itemsize
        whole = isinstance(self.method, Tensorwise)
        piece = largest if whole else min(self.block_size, len(self.models) * largest)
        computed = sum(source.computes for source in (self.base, *self.models.values())) * 2 * largest
        factored = 0
        if self.config.adapter_rank is not None:
            matrix = max((self.base.headers[name].count for name in self.factored), default=0)
            factored = 12 * matrix * self.arithmetic.itemsize + self.bytes_out
        return _AT_REST + computed + factored + self.threads * (_PER_THREAD + (len(self.models) + 3) * piece)

    @property
    def bytes_out(self) -> int:
        """Bytes of weights that are written; of an adapter at most: what does not change is left out."""
        if self.config.adapter_rank is None:
            return sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.layout.values())
        sides = sum(sum(self.layout[name][1]) for name in self.factored)
        return self.config.adapter_rank * sides * DTYPES[self.config.dtype or "float32"].itemsize

    @property
    def factored(self) -> list[str]:
        """Names of the matrices of which an adapter would be made."""
        return [
            name
            for name in self.merged
            if can_be_factored(name, self.layout[name][1])
            and not all(model.keeps(name, self.base) for model in self.models.values())
        ]


def check(config: MergeConfig, out: str | Path | None = None, overwrite: bool = False) -> Plan:
    """Find everything that can be wrong with a merge, without reading a weight.

    Args:
        config: what to merge, and how.
        out: where the result will go, to check that place too.
        overwrite: whether a folder that is there and not empty may be replaced.

    Returns:
        The plan, for `stream` and `write`.

    Raises:
        UserError: with one message for each problem.
    """
    problems: list[str] = []
    method = base = None
    with _added_to(problems):
        method = _method(config)
    problems += _value_problems(config, method)
    models: dict[str, Source] = {}
    if not config.models:
        problems.append("models: there is none; give a list of folders, or {task: folder}")
    elif method:
        problems += method.problems(len(config.models))
    with _added_to(problems, "base: "):
        base = read_input(config.base, "base")
    for task, location in config.by_task().items():
        with _added_to(problems, f"models.{task}: "):
            models[task] = read_input(location, f"models.{task}", base)
    if base is not None:
        models = {task: fitted(base, source, config.vocabulary) for task, source in models.items()}
        excluded = _excluded(config.exclude, [base, *models.values()], problems)
        for task, source in models.items():
            problems += differences(f"models.{task}", base, source, excluded)
        if method and method.adapters:
            problems += factors_differ(config.method, base, models, excluded)
        if config.lines is not None:
            problems += layer_scaling.problems(config.lines, base.headers)
    heads = _heads(models, problems)
    if out is not None:
        with _added_to(problems):
            check_target(Path(out), [*([base] if base else []), *models.values()], overwrite)
    if problems or method is None or base is None:
        raise UserError(*dict.fromkeys(problems))

    dtype = DTYPES[config.dtype] if config.dtype else None
    copied = {
        name
        for name, header in base.headers.items()
        if not header.dtype.is_floating_point or name in excluded
    }
    layout = {
        name: (dtype if dtype and header.dtype.is_floating_point else header.dtype, header.shape)
        for name, header in base.headers.items()
    }
    merged = tuple(name for name in file_order(layout) if name not in copied)
    if not merged:
        raise UserError(f"base: {base.folder}: no floating-point tensor is left to merge; exclude less")
    by_tensor: dict[str, Method] = {}
    if config.varying:
        by_tensor = methods_by_tensor(method, config.varying, merged)
        method = by_tensor[merged[0]]
        problems = [problem for found in by_tensor.values() for problem in found.problems(len(models))]
        if problems:
            raise UserError(*dict.fromkeys(problems))
    default_scaling = method.scaling if config.lines is None else 1.0
    scaling = default_scaling if config.scaling is None else config.scaling
    plan = Plan(
        config, method, scaling, base, models, merged, tuple(sorted(copied)), layout, heads, by_tensor
    )
    if out is not None:
        check_room(Path(out), plan.bytes_out)
    return plan


@contextmanager
def _added_to(problems: list[str], prefix: str = "") -> Iterator[None]:
    try:
        yield
    except UserError as error:
        problems += [text if text.startswith(prefix) else prefix + text for text in error.problems]


def _method(config: MergeConfig) -> Method:
    kind: object = METHODS.get(config.method)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"method: '{config.method}' is no merge method, but {kind!r}")
    try:
        return kind.build(config.parameters)
    except UserError as error:
        raise UserError(*(f"parameters of {config.method}: {text}" for text in error.problems)) from error


def _value_problems(config: MergeConfig, method: Method | None) -> Iterator[str]:
    words = {
        "dtype": (config.dtype, [None, *DTYPES]),
        "arithmetic": (config.arithmetic, ARITHMETIC),
        "vocabulary": (config.vocabulary, VOCABULARIES),
    }
    for key, (word, known) in words.items():
        if word not in known:
            yield f"{key}: unknown '{word}'" + did_you_mean(str(word), [name for name in known if name])
    for key, size in (("shard_size", config.shard_size), ("block_size", config.block_size)):
        if size is not None:
            try:
                size_in_bytes(key, size)
            except UserError as error:
                yield from error.problems
    if method and config.lines is not None and isinstance(method, Keeping):
        yield f"lines: '{config.method}' gives {method.gives}; LiNeS scales the layers of one merged model"
    if config.adapter_rank is not None and config.adapter_rank < 1:
        yield f"adapter_rank: must be at least 1, but is {config.adapter_rank}"
    if config.adapter_rank is not None and config.shard_size is not None:
        yield "shard_size: an adapter is one file; leave it out"
    if config.adapter_rank is not None and isinstance(method, Keeping):
        yield f"adapter_rank: {config.method} keeps a part per task, and no adapter can; leave it out"
    if config.varying and isinstance(method, Keeping):
        yield f"varying: {config.method} keeps a part per task; its parameters cannot vary"
    if problem := device_problem(config.device):
        yield problem
    reads = config.interventions is not None or (method and method.collects)
    if method and not reads and config.data != DataConfig():
        yield f"data: '{config.method}' reads no examples; leave `data` out"
    if config.scaling is not None and not math.isfinite(config.scaling):
        yield f"scaling: must be a finite number, but is {config.scaling}"
    elif method and len(method.scaling_grid) == 1 and config.scaling not in (None, method.scaling):
        yield (
            f"scaling: '{config.method}' has no scaling coefficient, but scaling is {config.scaling}; "
            "leave it out, or use task_arithmetic"
        )


def _excluded(patterns: Sequence[str], sources: Sequence[Source], problems: list[str]) -> set[str]:
    names = {name for source in sources for name in [*source.headers, *source.tied]}
    excluded: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            near = did_you_mean(pattern, {name.split(".")[0] + ".*" for name in names})
            problems.append(f"exclude: '{pattern}' matches no tensor{near}")
        excluded.update(found)
    return excluded


def _heads(models: Mapping[str, Source], problems: list[str]) -> dict[str, Path]:
    heads: dict[str, Path] = {}
    for task, source in models.items():
        for file in sorted((source.folder / HEADS).glob("*.safetensors")):
            other = heads.setdefault(file.name, file)
            if other is not file and fingerprint(other) != fingerprint(file):
                problems.append(f"models.{task}: {file} and {other} differ but have one name; rename one")
    return heads
