"""Mixtures of experts: the matrices of each expert by themselves, or fused as transformers 5 holds them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator

from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.source import Source

__all__ = ["are_fused", "are_separate", "separated"]

_SEPARATE = re.compile(r"\.experts\.\d+\.(w1|gate_proj)\.weight$")
_FUSED = re.compile(r"^(.*\.experts)\.(gate_up_proj|down_proj)$")
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
    words = next((_WORDS[match[1]] for name in base.headers if (match := _SEPARATE.search(name))), None)
    if words is None or type(model) is not Source or not are_fused(model.headers):
        return model
    # Mixtral's checkpoints call the block of experts by another name than its module has now.
    old = any(".block_sparse_moe." in name for name in base.headers)
    headers: dict[str, TensorHeader] = {}
    for name, header in model.headers.items():
        renamed = name.replace(".mlp.", ".block_sparse_moe.") if old else name
        headers |= dict(_parts(renamed, header, words))
    return dataclasses.replace(model, headers=headers)


def _parts(
    name: str, header: TensorHeader, words: tuple[str, str, str]
) -> Iterator[tuple[str, TensorHeader]]:
    """Yield each expert's part of a fused tensor with its name; any other tensor as it is."""
    fused = _FUSED.match(name)
    if not fused or len(header.shape) != 3:
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
