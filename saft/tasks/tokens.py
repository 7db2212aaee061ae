"""Texts as a tokenizer writes them; those of large tables are kept on the disk, and read from then on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from saft.files.locations import cache_folder
from saft.files.staging import write_shared
from saft.tasks.table import Text

__all__ = ["CAP", "LEAST", "Tokens", "tokenized"]

LEAST = 1 << 20
"""Characters of a split's texts from which on they are kept: fewer take less than half a second."""
CAP = 4 << 30
"""Bytes that are kept of all tables together; what was not read for longest goes first."""
FORMAT = 1
"""Of what is kept: counts the changes of this file after which what was kept before is not to be read."""


@dataclass(frozen=True)
class Tokens:
    """Texts as a tokenizer wrote them.

    Args:
        inputs: name of a model's input -> its numbers for each text.
        cut: which texts were longer.
    """

    inputs: dict[str, list[list[int]]]
    cut: list[bool]

    def of(self, rows: Sequence[int]) -> Tokens:
        """Return the tokens of some texts, by their numbers."""
        inputs = {name: [numbers[row] for row in rows] for name, numbers in self.inputs.items()}
        return Tokens(inputs, [self.cut[row] for row in rows])


def tokenized(
    tokenizer: Any, texts: Sequence[Text], max_length: int | None = None, **options: bool
) -> Tokens:
    """Return texts or pairs as a tokenizer writes them; of a pair the longer text is cut first.

    From `LEAST` characters on, they lie in `saft/tokens` in $XDG_CACHE_HOME, or in ~/.cache, under the digest
    of all that they depend on: the texts in any order, how they are written, and the tokenizer itself, not
    its name. So nothing that has changed is ever read, and the seeds of an experiment share what they have
    in common. Whoever deletes that folder has every text tokenized again.

    Args:
        tokenizer: of transformers.
        texts: all single or all pairs.
        max_length: tokens of a text or pair at most; None cuts nothing.
        **options: of the tokenizer's call; `answers` has it write the texts as what is to follow.
    """
    if not texts:
        return Tokens({"input_ids": []}, [])
    characters = sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
    if characters < LEAST or not tokenizer.is_fast:
        return _tokenized(tokenizer, texts, max_length, options)
    own = sorted(set(texts))
    file = _file(tokenizer, own, max_length, options)
    known = _read(file, len(own))
    if known is None:
        known = _tokenized(tokenizer, own, max_length, options)
        _write(file, known)
    place = {text: row for row, text in enumerate(own)}
    return known.of([place[text] for text in texts])


def _tokenized(
    tokenizer: Any, texts: Sequence[Text], max_length: int | None, options: Mapping[str, bool]
) -> Tokens:
    parts = ([text] if isinstance(text, str) else text for text in texts)
    columns = [list(column) for column in zip(*parts, strict=True)]
    given = {key: value for key, value in options.items() if key != "answers"} | {"verbose": False}
    if max_length is not None:
        given |= {"truncation": True, "max_length": max_length}  # type: ignore[dict-item]
    if options.get("answers"):
        encoded = tokenizer(text_target=columns[0], **given)
    else:
        encoded = tokenizer(*columns, **given)
    cut = [False] * len(texts)
    if max_length is not None:
        for row in _cut_rows(tokenizer, columns, encoded, max_length):
            cut[row] = True
    return Tokens(dict(encoded), cut)


def _cut_rows(tokenizer: Any, columns: Sequence[list[str]], encoded: Any, max_length: int) -> list[int]:
    """Return which texts a tokenizer has cut, from 0."""
    full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == max_length]
    if encoded.encodings is not None:  # fast tokenizers keep what they cut off
        return [row for row in full if encoded.encodings[row].overflowing]
    if not full:
        return []
    whole = tokenizer(*([column[row] for row in full] for column in columns), verbose=False)["input_ids"]
    return [row for row, ids in zip(full, whole, strict=True) if len(ids) > max_length]


def _file(tokenizer: Any, texts: Sequence[Text], max_length: int | None, options: Mapping[str, bool]) -> Path:
    """Return where tokens are kept that depend on all this."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a call sets both as it needs them; they are no part of the tokenizer
    backend.no_padding()
    languages = [tokenizer.src_lang, tokenizer.tgt_lang] if hasattr(tokenizer, "tgt_lang") else []
    what = [
        FORMAT,
        [transformers.__version__, tokenizers.__version__, type(tokenizer).__qualname__, backend.to_str()],
        [tokenizer.truncation_side, tokenizer.model_input_names, tokenizer.split_special_tokens, *languages],
        [max_length, dict(options)],
        texts,
    ]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return cache_folder("tokens") / f"{digest}.safetensors"


def _read(file: Path, count: int) -> Tokens | None:
    """Return what is kept, if it is there and whole."""
    try:
        kept = load_file(file)
        os.utime(file)
    except (OSError, SafetensorError):
        return None
    lengths, cut = kept.pop("lengths"), kept.pop("cut")
    if len(lengths) != count:
        return None
    ends = [0, *accumulate(lengths.tolist())]
    named = sorted((int(at), name) for at, _, name in (key.partition(" ") for key in kept))
    flat = {name: kept[f"{at} {name}"].tolist() for at, name in named}
    inputs = {name: [numbers[a:b] for a, b in pairwise(ends)] for name, numbers in flat.items()}
    return Tokens(inputs, [bool(value) for value in cut])


def _write(file: Path, tokens: Tokens) -> None:
    """Keep tokens, where that is possible."""
    arrays = {  # numbered, since the file does not keep their order
        f"{at} {name}": _narrow([number for row in rows for number in row])
        for at, (name, rows) in enumerate(tokens.inputs.items())
    }
    arrays["lengths"] = _narrow([len(row) for row in tokens.inputs["input_ids"]])
    arrays["cut"] = np.array(tokens.cut, dtype=np.uint8)
    content = save(arrays)
    with suppress(OSError):  # a home that cannot be written to, a disk that is full
        _make_room(file.parent, len(content))
        write_shared(file, content)


def _narrow(numbers: list[int]) -> np.ndarray:
    """Return numbers of at least 0 in as few bytes as they need."""
    return np.array(numbers, dtype=np.min_scalar_type(max(numbers, default=0)))


def _make_room(folder: Path, size: int) -> None:
    kept = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob("*.safetensors"))
    total = size + sum(size for _, size, _ in kept)
    for _, freed, file in kept:
        if total <= CAP:
            break
        file.unlink(missing_ok=True)
        total -= freed
