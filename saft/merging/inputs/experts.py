"""Mixtures of experts: the matrices of each expert by themselves, or fused as transformers 5 holds them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.source import Source

__all__ = ["are_fused", "are_separate", "by_expert", "fused_names", "separated", "views"]

_SEPARATE = re.compile(r"\.experts\.\d+\.(w1|gate_proj)\.weight$")
_FUSED = re.compile(r"^(.*\.experts)\.(gate_up_proj|down_proj)$")
_OLD, _NEW = ".block_sparse_moe.", ".mlp."
# gate, up and down, as Mixtral's checkpoints and all others call them
_WORDS = {"w1": ("w1", "w3", "w2"), "gate_proj": ("gate_proj", "up_proj", "down_proj")}


def are_separate(names: Collection[str]) -> bool:
    """Return whether a checkpoint has a tensor for each expert."""
    return any(map(_SEPARATE.search, names))


def are_fused(names: Collection[str]) -> bool:
    """Return whether a checkpoint has one tensor for all experts of a layer."""
    return any(map(_FUSED.search, names))


def separated(base: Source, model: Source) -> Source:
    """Return a model whose experts are fused with each expert by itself, as the base has them.

    transformers 5 holds the experts of a layer as two tensors, [experts, 2 · inner, outer] with gate above
    up and [experts, outer, inner]; so does a state dict that was written as it is. An expert's part of such a
    tensor is a row of bytes in the file: nothing is read or copied for it.

    Args:
        base: the base model.
        model: a fine-tuned one; it is given back as it is where the two are stored alike.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> def source(name, *shape):
        ...     return Source("", Path(), {name: TensorHeader(torch.float32, shape, Path("f"), (0, 96))})
        >>> fused = source("mlp.experts.gate_up_proj", 2, 4, 3)
        >>> base = source("mlp.experts.0.gate_proj.weight", 2, 3)
        >>> [(name, header.offsets) for name, header in separated(base, fused).headers.items()][:2]
        [('mlp.experts.0.gate_proj.weight', (0, 24)), ('mlp.experts.0.up_proj.weight', (24, 48))]
    """
    words = _words(base.headers)
    if words is None or type(model) is not Source or not are_fused(model.headers):
        return model
    # Mixtral's checkpoints call the block of experts by another name than its module has now.
    old = any(_OLD in name for name in base.headers)
    headers: dict[str, TensorHeader] = {}
    for name, header in model.headers.items():
        renamed = name.replace(_NEW, _OLD) if old else name
        headers |= dict(_parts(renamed, header, words))
    return dataclasses.replace(model, headers=headers)


def by_expert(source: Source, stored: Collection[str]) -> Source:
    """Return a module in memory with each expert by itself, if its files have them so.

    Args:
        source: the module, its experts fused.
        stored: what its files have in the place of a fused tensor.
    """
    words = _words(stored)
    if words is None:
        return source
    fused = {name: source.headers[name] for name in fused_names(source.headers)}
    headers: dict[str, TensorHeader] = {}
    in_files = dict(source.in_files)
    old = any(_OLD in name for name in stored)
    for name, header in source.headers.items():
        parts = dict(_parts(name, header, words))
        headers |= parts
        if old and name in fused:
            in_files |= {part: part.replace(_NEW, _OLD) for part in parts}
    return dataclasses.replace(source, headers=headers, fused=fused, in_files=in_files)


def views(base: Source, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return name -> tensor, of fused experts the parts that the base has, which are no copies.

    Args:
        base: the base model.
        tensors: of a model in memory, those of its experts [experts, rows, columns] if they are fused.
    """
    headers = {
        name: TensorHeader(tensor.dtype, tuple(tensor.shape), Path(), (0, 0), tensor)
        for name, tensor in tensors.items()
    }
    parts = separated(base, Source("", Path(), headers)).headers
    return {name: header.stored for name, header in parts.items() if header.stored is not None}


def _words(names: Collection[str]) -> tuple[str, str, str] | None:
    """Return what an expert's three matrices are called; None where no expert is by itself."""
    return next((_WORDS[match[1]] for name in names if (match := _SEPARATE.search(name))), None)


def fused_names(headers: Mapping[str, TensorHeader]) -> list[str]:
    """Return the names of the tensors that hold all experts of a layer."""
    return [name for name, header in headers.items() if _is_fused(name, header)]


def _is_fused(name: str, header: TensorHeader) -> bool:
    return bool(_FUSED.match(name)) and len(header.shape) == 3


def _parts(
    name: str, header: TensorHeader, words: tuple[str, str, str]
) -> Iterator[tuple[str, TensorHeader]]:
    """Yield each expert's part of a fused tensor with its name; any other tensor as it is."""
    fused = _FUSED.match(name)
    if not fused or not _is_fused(name, header):
        yield name, header
        return
    gate, up, down = words
    pieces = (gate, up) if fused[2] == "gate_up_proj" else (down,)
    experts, rows, columns = header.shape
    height = rows // len(pieces)
    size = height * columns * header.dtype.itemsize
    for expert in range(experts):
        for at, piece in enumerate(pieces):
            start = header.offsets[0] + (expert * len(pieces) + at) * size
            stored = None if header.stored is None else header.stored[expert, at * height : (at + 1) * height]
            part = dataclasses.replace(
                header, shape=(height, columns), offsets=(start, start + size), stored=stored
            )
            yield f"{fused[1]}.{expert}.{piece}.weight", part
