"""A merge that has been checked: what will be read, merged, copied and written, and what that takes."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from saft.files.mapped_files import mapped_files
from saft.files.tensorfile import Layout
from saft.merging.carried import Carried
from saft.merging.dtypes import ARITHMETIC
from saft.merging.inputs.source import Source
from saft.merging.merge_config import MergeConfig, size_in_bytes
from saft.merging.method import Elementwise, Method, Tensorwise
from saft.merging.outputs.output import Output
from saft.merging.stream.data_statistics import Collected
from saft.merging.stream.gathering import passes_needed
from saft.merging.stream.order_statistics import passes_of

__all__ = ["Earlier", "Plan", "Progress", "Trainer"]

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read in all."""

Trainer = Callable[["Plan", Path, Progress | None], Mapping[str, Any]]
"""Called with the plan, the folder of the merged weights and who is told about progress; adds files to the
folder, and returns keys of saft.json."""

_BLOCK_SIZES = {"cpu": 2**21, "cuda": 2**26}  # less, and Python takes longer than the arithmetic
_MOST_THREADS = 16  # more would wait for the memory, and take some

_SAMPLED_FROM = 2**24
"""Entries of a model that a sample is drawn from, at least."""

_AT_REST = 200 * 2**20
"""Bytes of Python, torch and saft itself, and of counters."""
_PER_THREAD = 56 * 2**20
"""Bytes that the allocator keeps for each thread."""


@dataclass(frozen=True)
class Earlier:
    """A merge of the same file whose result is an input, and is not kept.

    Args:
        name: by which it is an input.
        folder: where its result is as long as it is needed.
        mark: what tells it from any other merge; see `saft.merging.outputs.resume.mark`.
    """

    name: str
    folder: Path
    mark: str


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
    carried: Carried
    """What the models declare of their tasks, and the heads of these."""
    output: Output
    """The form that the result has."""
    by_tensor: Mapping[str, Method]
    """The method of each tensor, where its parameters differ from tensor to tensor; else empty."""
    collected: Collected = field(default_factory=Collected)
    """What was read of data, for a method that collects; `check` leaves it empty."""
    train: Trainer | None = None
    """Trains what an output adds to the weights; `check` leaves it None, `saft.calibration` sets it."""
    earlier: Sequence[Earlier] = ()
    """The merges that this one rests on, in the order in which they are done; `check` leaves it empty."""

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
    def scopes(self) -> Sequence[Sequence[str]]:
        """The names of the tensors that statistics are taken over together: all, or one at a time."""
        each = self.by_tensor or self.method.statistics_over == "tensor"
        return [(name,) for name in self.merged] if each else [self.merged]

    @property
    def passes(self) -> int:
        """How often the task vectors are read: for the statistics, and once to merge.

        Where each tensor has statistics of its own, the largest is meant: a small one is read less often. A
        sample that misleads makes it once more.
        """
        return self._passes(max(map(self.entries, self.scopes)))

    @property
    def bytes_to_read(self) -> int:
        """Bytes that all passes read."""
        sources = [self.base, *self.models.values()]
        passes_by_size: dict[int, int] = {}
        total = 0
        for names in self.scopes:
            size = self.entries(names)
            passes_by_size.setdefault(size, self._passes(size))
            read = sum(source.headers[name].nbytes for source in sources for name in names)
            total += read * passes_by_size[size]
        return total

    def mapped(self) -> tuple[Plan, dict[Path, mmap.mmap]]:
        """Return the plan with its files mapped as a whole, for all passes and digests, and the mapped files.

        Their pages stay until neither is held: that is for the time of the merge.
        """
        sources = [self.base, *self.models.values()]
        mapped = mapped_files(file for source in sources for file in source.weight_files)
        base, *models = (source.mapped(mapped) for source in sources)
        return replace(self, base=base, models=dict(zip(self.models, models, strict=True))), mapped

    def entries(self, names: Sequence[str]) -> int:
        """Return the entries of the tensors called `names`, in one model."""
        return sum(self.base.headers[name].count for name in names)

    def _passes(self, count: int) -> int:
        """Return how often tensors of so many entries are read, whose statistics are taken together."""
        for_lines = self.config.lines is not None and self.config.lines.alpha is None
        ordered = passes_of(self.arithmetic, count, self.is_sampled)
        return passes_needed(self.method, len(self.models), self.arithmetic, ordered) + for_lines

    @property
    def is_sampled(self) -> bool:
        """Whether a sample tells where order statistics over the model lie, which saves a pass for each.

        It has to be worth its counters; and a tensor that is computed would be computed once more for it.
        """
        over_the_model = isinstance(self.method, Elementwise) and self.method.statistics_over == "model"
        stored = not any(source.computes for source in (self.base, *self.models.values()))
        large = self.arithmetic == torch.float32 and self.entries(self.merged) >= _SAMPLED_FROM
        return over_the_model and stored and large and not self.method.calibration

    @property
    def arithmetic(self) -> torch.dtype:
        """Precision of everything between reading and writing."""
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
        if (size := self.config.block_size) is not None:
            return size_in_bytes("block_size", size)
        # A method without statistics makes few and quick calls for a block, and has room for a larger one.
        return _BLOCK_SIZES[self.device.type] * (2 if self.method.statistics_over == "none" else 1)

    @property
    def threads(self) -> int:
        """Threads that work on blocks."""
        return min(torch.get_num_threads(), _MOST_THREADS)

    @property
    def hashing_threads(self) -> int:
        """Threads that take digests beside them: more would keep those that work from a core they need."""
        return max(self.threads // 2, 1)

    @property
    def memory(self) -> int:
        r"""Bytes of private memory that the merge is expected to need at most.

        .. math:: 200\,\text{MiB} + \text{threads} \cdot (56\,\text{MiB} + (K + 3) \cdot \text{piece})

        with the K models and, as the piece, a block (of all tasks together) or, for a method that takes whole
        tensors, the largest tensor. An input that is computed, such as an adapter's, adds two of its largest
        tensors: one that is worked on, and the next. The output adds what it takes itself. Files that are
        read do not count: the kernel drops their pages when it needs room.
        """
        largest = max(self.base.headers[name].count for name in self.merged) * self.arithmetic.itemsize
        whole = isinstance(self.method, Tensorwise)
        piece = largest if whole else min(self.block_size, len(self.models) * largest)
        computed = sum(source.computes for source in (self.base, *self.models.values())) * 2 * largest
        blocks = self.threads * (_PER_THREAD + (len(self.models) + 3) * piece)
        return _AT_REST + computed + blocks + self.output.memory(self)

    @property
    def bytes_out(self) -> int:
        """Bytes of tensors that are written, at most."""
        return self.output.bytes(self)

    @property
    def reads_examples(self) -> bool:
        """Whether the method or the output reads examples of each task."""
        return bool(self.method.calibration) or self.output.reads_examples
