"""An input of a merge: where it is, what its files hold, and which of its tensors are one."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from saft.errors import UserError
from saft.files.checkpoint import (
    CONFIG,
    HEADS,
    MANIFEST,
    config_parts,
    model_config,
    read_manifest,
    tensor_headers,
    weight_files,
)
from saft.files.links import inside
from saft.files.mapped_files import in_mapped
from saft.files.sentence_modules import module_files, module_tensors
from saft.files.tensorfile import TensorHeader, view
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.quantization import quantization_problem
from saft.merging.inputs.tensor_names import is_vocabulary, trunk_first

__all__ = ["Source", "read_source", "ties"]

_COMPARED = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True)
class Source:
    """An input: where it was said to be, its folder, and its tensors.

    Args:
        location: as the user wrote it.
        folder: on this machine; of a model in memory, what messages call it.
        headers: name -> what the file says of the tensor; of tied tensors one.
        tied: name of a tensor that is another -> the name of that other, which is in `headers`.
        config: what its config.json says; empty where there is none.
        files: that are read, for their digests; none of a model in memory.
        fused: of a module in memory, the tensors of all experts of a layer that `headers` has by expert.
        in_files: of a module in memory, name of a tensor -> its name in files, where they differ.
    """

    location: str
    folder: Path
    headers: Mapping[str, TensorHeader]
    tied: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()
    fused: Mapping[str, TensorHeader] = field(default_factory=dict)
    in_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_place(self) -> str:
        """Return where its config is, for messages."""
        return str(self.folder / CONFIG) if self.files else f"config of {self.folder}"

    @property
    def heads(self) -> Mapping[str, Path]:
        """Return task -> the file of its head."""
        paths = sorted((self.folder / HEADS).glob("*.safetensors"))
        return {path.stem: inside(self.folder, path.relative_to(self.folder)) for path in paths}

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Return task -> its keys, as its saft.json declares them; empty where there is none."""
        stated = read_manifest(self.folder).get("tasks") if (self.folder / MANIFEST).is_file() else None
        return stated if isinstance(stated, dict) else {}

    @property
    def computes(self) -> bool:
        """Return whether tensors are made when they are asked for, and so take memory as a whole."""
        return False

    @property
    def weight_files(self) -> set[Path]:
        """Return the files that its tensors are read from, as they are, and not yet mapped."""
        return set() if self.computes else {x.file for x in self.headers.values() if x.stored is None}

    def mapped(self, files: Mapping[Path, mmap.mmap]) -> Source:
        """Return the input with its tensors in files that are mapped: see `mapped_files`.

        Args:
            files: among them those of `weight_files`.
        """
        return replace(self, headers=in_mapped(self.headers, files)) if self.weight_files else self

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in its shape, as it is stored; of a file, as a view of it.

        Args:
            name: one of `headers`.
        """
        return view(self.headers[name])

    def factors(self, name: str, base: Source) -> Factors | None:
        """Return the matrices whose product sets a tensor apart from the base's; None where none do."""
        return None

    def keeps(self, name: str, base: Source) -> bool:
        """Return whether a tensor can only be the base's own, without reading it."""
        return False


def read_source(location: str, folder: Path) -> Source:
    """Return the input in `folder`, its tied tensors once.

    Tensors are tied when they share their storage, as in torch's pickles; and, where config.json says
    `tie_word_embeddings`, when embeddings and head are stored twice with the same numbers.

    Those of sentence-transformers' modules are called `2_Dense/linear.weight`.

    Args:
        location: as the user wrote it.
        folder: a checkpoint folder.

    Raises:
        UserError: the weights cannot be read, are quantized, or config.json is damaged.
    """
    headers, config = tensor_headers(folder) | module_tensors(folder), model_config(folder)
    if problem := quantization_problem(folder, headers, config):
        raise UserError(problem)
    tied = ties(headers, config)
    stored = {name: header for name, header in headers.items() if name not in tied}
    files = [*weight_files(folder), *module_files(folder).values()]
    return Source(location, folder, stored, tied, config, files)


def ties(headers: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of a tensor that is another -> the name of that other, as `read_source` says.

    Args:
        headers: of all tensors.
        config: of the model.
    """
    stated = any(part.get("tie_word_embeddings") is True for part in config_parts(dict(config)))
    first: dict[Any, str] = {}
    tied = {}
    for name in sorted(headers, key=trunk_first):
        header = headers[name]
        strides = header.stored.stride() if header.stored is not None else ()
        place = (header.file, header.offsets, header.dtype, header.shape, strides)
        if header.count and first.setdefault(place, name) != name:
            tied[name] = first[place]
    if stated:
        vocabulary = [name for name in sorted(headers, key=trunk_first) if is_vocabulary(name)]
        for name, other in combinations([name for name in vocabulary if name not in tied], 2):
            if name not in tied and other not in tied and _equal(headers[name], headers[other]):
                tied[other] = name
        tied = {name: tied.get(other, other) for name, other in tied.items()}
    return tied


def _equal(one: TensorHeader, other: TensorHeader) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    mine, theirs = view(one).reshape(-1), view(other).reshape(-1)
    starts = range(0, len(mine), _COMPARED)
    return all(mine[at : at + _COMPARED].equal(theirs[at : at + _COMPARED]) for at in starts)
