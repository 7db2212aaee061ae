"""The keys of mergekit's merge file: which there are, and which of them saft does; known without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from saft.errors import UserError, did_you_mean
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.method_table import MERGE_METHODS
from saft.merging.mergekit.references import NOT_HERE, location
from saft.merging.mergekit.slices import slice_problems

__all__ = ["OWN_KEYS", "check_keys", "is_mergekit"]

_ELSEWHERE = ("modules", "experts", "gate_mode", "experts_per_token", "shared_experts")
_OTHER_METHODS = ("passthrough",)
_KEYS = (
    *("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
_SAME_IN_BOTH = ("method", "base", "models", "parameters", "varying", "scaling", "dtype")
OWN_KEYS = tuple(item.name for item in dataclasses.fields(MergeConfig) if item.name not in _SAME_IN_BOTH)


def is_mergekit(mapping: Mapping[str, Any]) -> bool:
    """Return whether a file is mergekit's and not saft's, which begins with `method:`."""
    return "method" not in mapping and any(
        k in mapping for k in ("merge_method", "base_model", "slices", *_ELSEWHERE)
    )


def check_keys(mapping: Mapping[str, Any], where: str) -> None:
    """Check the keys of a file, its method, and where it takes the tokenizer from.

    Args:
        mapping: what the file holds.
        where: the file, for messages.

    Raises:
        UserError: everything there that mergekit does not know, or that saft does not do.

    Example:
        >>> check_keys({"merge_method": "ties", "base_modle": "b"}, "ties.yaml")
        Traceback (most recent call last):
        saft.errors.UserError: ties.yaml: base_modle: unknown key; did you mean 'base_model'?
    """
    if problems := list(_key_problems(mapping)):
        raise UserError(*(f"{where}: {problem}" for problem in problems))


def _key_problems(mapping: Mapping[str, Any]) -> Iterator[str]:
    for key in mapping:
        if key in _ELSEWHERE:
            if mapping[key] is not None:  # which says nothing
                yield f"{key}: {NOT_HERE}; it merges whole models, given as `models:`"
        elif key in ("normalize", "weight", "density", "lambda", "rescale", "int8_mask", "t"):
            yield f"{key}: belongs under `parameters:`"
        elif key not in _KEYS and key not in OWN_KEYS:
            yield f"{key}: unknown key" + did_you_mean(str(key), [*_KEYS, *OWN_KEYS])
    yield from slice_problems(mapping)
    name = mapping.get("merge_method")
    if not isinstance(name, str):
        yield (
            "merge_method: is required, but missing"
            if name is None
            else f"merge_method: {name!r} is not a name"
        )
    elif name in _OTHER_METHODS:
        yield f"merge_method: {name}: {NOT_HERE}; in common are: {', '.join(MERGE_METHODS)}"
    elif name not in MERGE_METHODS:
        from saft.merging.methods import METHODS  # which imports torch: only where the file is wrong

        own = (
            f"; it is a method of saft's own: write `method: {name}`, `base: FOLDER`, `models: [FOLDER, ...]`"
            if name in METHODS.names()
            else ""
        )
        yield f"merge_method: unknown '{name}'" + (own or did_you_mean(name, MERGE_METHODS))
    yield from _tokenizer_problems(mapping)


def _tokenizer_problems(mapping: Mapping[str, Any]) -> Iterator[str]:
    """The base's tokenizer is copied, which is what `tokenizer_source: base` asks for where words agree."""
    tokenizer = mapping.get("tokenizer")
    source = mapping.get("tokenizer_source")
    if isinstance(tokenizer, Mapping):
        source = tokenizer.get("source", source)
        for key in tokenizer:
            if key != "source" and tokenizer[key] is not None:
                yield f"tokenizer.{key}: {NOT_HERE}"
    elif tokenizer is not None:
        yield f"tokenizer: must hold `source:`, but is {tokenizer!r}"
    if source not in (None, "base", mapping.get("base_model")) and not _is_base(source, mapping):
        yield (
            f"tokenizer_source: {source}: {NOT_HERE}; it copies the tokenizer of the base: leave it out, or "
            "write base, if the models' vocabularies are the same"
        )
    if mapping.get("chat_template") is not None:
        yield f"chat_template: {NOT_HERE}; it copies the base's: leave it out"


def _is_base(source: Any, mapping: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer's source is the base, written in whatever way."""
    with suppress(UserError):
        return location(source) == location(mapping.get("base_model"))
    return False
