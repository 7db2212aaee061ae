"""An input of a merge: where it is, what its files hold, and how its tensors come under the base's names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.errors import UserError
from saft.files.checkpoint import tensor_headers, weight_files
from saft.files.tensorfile import TensorHeader, view
from saft.merging.inputs.factors import Factors

__all__ = ["Source", "fitted", "is_vocabulary", "read_source", "rows_differ"]

_EMBEDDINGS = ("shared", "embed", "wte")
_VOCABULARY = (*_EMBEDDINGS, "lm_head", "decoder.weight", "decoder.bias", "predictions.bias")
_COMPARED = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True)
class Source:
    """An input: where it was said to be, its folder, and its tensors.

    Args:
        location: as the user wrote it.
        folder: on this machine.
        headers: name -> what the file says of the tensor; of tied tensors one.
        tied: name of a tensor that is another -> the name of that other, which is in `headers`.
    """

    location: str
    folder: Path
    headers: Mapping[str, TensorHeader]
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Return the files that are read, for their digests."""
        return weight_files(self.folder)

    @property
    def computes(self) -> bool:
        """Tell whether tensors are made when they are asked for, and so take memory as a whole."""
        return False

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as it is stored; of a file, as a view of it."""
        return view(self.headers[name])

    def factors(self, name: str, base: Source) -> Factors | None:
        """Return the matrices whose product sets a tensor apart from the base's; None where none do."""
        return None

    def keeps(self, name: str, base: Source) -> bool:
        """Tell whether a tensor can only be the base's own, without reading it."""
        return False


@dataclass(frozen=True)
class _Fitted(Source):
    """A source under other names, some of its tensors with as many rows as the base's.

    Args:
        original: whose tensors they are.
        names: name -> the original's name.
        base: of the rows that the original lacks.
    """

    original: Source = field(kw_only=True)
    names: Mapping[str, str] = field(kw_only=True)
    base: Source = field(kw_only=True)

    @property
    def files(self) -> list[Path]:
        return self.original.files

    @property
    def computes(self) -> bool:
        lacking = (
            header.shape[:1] > self.original.headers[self.names[name]].shape[:1]
            for name, header in self.headers.items()
        )
        return self.original.computes or any(lacking)

    def tensor(self, name: str) -> Tensor:
        found, shape = self.original.tensor(self.names[name]), self.headers[name].shape
        if tuple(found.shape) == shape:
            return found
        if len(found) > shape[0]:
            return found[: shape[0]]
        missing = self.base.tensor(name)[len(found) :]
        dtype = torch.promote_types(found.dtype, missing.dtype)  # so that the base's rows stay as they are
        return torch.cat([found.to(dtype), missing.to(dtype)])

    def factors(self, name: str, base: Source) -> Factors | None:
        return self.original.factors(self.names[name], base)

    def keeps(self, name: str, base: Source) -> bool:
        return self.original.keeps(self.names[name], base)


def read_source(location: str, folder: Path) -> Source:
    """Return the input in `folder`, its tied tensors once.

    Tensors are tied when they share their storage, as in torch's pickles; and, where config.json says
    `tie_word_embeddings`, when embeddings and head are stored twice with the same numbers.

    Args:
        location: as the user wrote it.
        folder: a checkpoint folder.

    Raises:
        UserError: the weights cannot be read, are quantized, or config.json is damaged.
    """
    headers, config = tensor_headers(folder), _config(folder)
    if any(part.get("quantization_config") for part in _parts(config)):
        raise UserError(
            f"{folder / 'config.json'}: says that the weights are quantized (quantization_config), and codes "
            "cannot be added up; give the model as it was before, or save it after model.dequantize()"
        )
    tied = _tied(headers, any(part.get("tie_word_embeddings") is True for part in _parts(config)))
    return Source(location, folder, {n: header for n, header in headers.items() if n not in tied}, tied)


def _tied(headers: Mapping[str, TensorHeader], stated: bool) -> dict[str, str]:
    first: dict[Any, str] = {}
    tied = {}
    for name in sorted(headers, key=_trunk_first):
        header = headers[name]
        strides = header.stored.stride() if header.stored is not None else ()
        place = (header.file, header.offsets, header.dtype, header.shape, strides)
        if header.count and first.setdefault(place, name) != name:
            tied[name] = first[place]
    if stated:
        vocabulary = [name for name in sorted(headers, key=_trunk_first) if is_vocabulary(name)]
        for name, other in combinations([name for name in vocabulary if name not in tied], 2):
            if name not in tied and other not in tied and _equal(headers[name], headers[other]):
                tied[other] = name
        tied = {name: tied.get(other, other) for name, other in tied.items()}
    return tied


def _trunk_first(name: str) -> tuple[int, str]:
    """Sort embeddings before heads: readers tie the head to the trunk, and look for the trunk's name."""
    return next((at for at, part in enumerate(_EMBEDDINGS) if part in name), len(_EMBEDDINGS)), name


def _config(folder: Path) -> Mapping[str, Any]:
    """Return what config.json says; nothing where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: is not readable as JSON: {error}; copy or download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: is not a JSON object; copy or download it again")
    return found


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config and those inside it, of a model that is made of several."""
    return [part for part in (config, *config.values()) if isinstance(part, dict)]


def _equal(one: TensorHeader, other: TensorHeader) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    mine, theirs = view(one).reshape(-1), view(other).reshape(-1)
    starts = range(0, len(mine), _COMPARED)
    return all(mine[at : at + _COMPARED].equal(theirs[at : at + _COMPARED]) for at in starts)


def is_vocabulary(name: str) -> bool:
    """Tell whether a tensor has a row for each word of the vocabulary, by its name."""
    return any(part in name for part in _VOCABULARY)


def rows_differ(name: str, mine: TensorHeader, other: TensorHeader) -> bool:
    """Tell whether two tensors differ in the number of words alone."""
    return mine.shape != other.shape and mine.shape[1:] == other.shape[1:] and is_vocabulary(name)


def fitted(base: Source, model: Source, vocabulary: str = "refuse") -> Source:
    """Return `model` with the base's names, when all that sets them apart is a prefix or a tie.

    A model with a head names its trunk `bert.encoder...`, the bare model `encoder...`; either may be the
    base. Of tied tensors the base may store one, another, or each.

    Args:
        base: the base model.
        model: a fine-tuned one.
        vocabulary: `base` gives embeddings and head the base's rows: those beyond them are cut, those that
            the model lacks are the base's own. `refuse` leaves them to be refused.
    """
    names = _names(base, model)
    headers = {name: model.headers[model.tied.get(original, original)] for name, original in names.items()}
    if vocabulary == "base":
        for name, header in headers.items():
            if name in base.headers and rows_differ(name, header, base.headers[name]):
                headers[name] = dataclasses.replace(header, shape=base.headers[name].shape, stored=None)
    stored = {name: model.tied.get(original, original) for name, original in names.items()}
    return _Fitted(model.location, model.folder, headers, model.tied, original=model, names=stored, base=base)


def _names(base: Source, model: Source) -> dict[str, str]:
    """Return name -> the model's name."""
    everything = [*model.headers, *model.tied]

    def renamed(prefix: str, add: bool) -> dict[str, str]:
        new = {}
        for name in everything:
            longer = prefix + name
            new[(longer if longer in base.headers else name) if add else name.removeprefix(prefix)] = name
        return new if len(new) == len(everything) else {}  # two names must not become one

    candidates = [dict(zip(everything, everything, strict=True))]
    candidates += [renamed(prefix, add=True) for prefix in _prefixes(base.headers)]
    candidates += [renamed(prefix, add=False) for prefix in _prefixes(model.headers)]
    names = max(candidates, key=lambda found: len(found.keys() & base.headers.keys()))
    stored = {model.tied.get(original, original) for name, original in names.items() if name in base.headers}
    return {
        name: original
        for name, original in names.items()
        if name in base.headers or (original in model.headers and original not in stored)
    }


def _prefixes(names: Collection[str]) -> list[str]:
    return sorted({name.split(".", 1)[0] + "." for name in names if "." in name})
