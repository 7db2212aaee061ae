"""mergekit's `slices:`, where it is one slice of whole models: another way to write `models:`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saft.merging.mergekit.references import NOT_HERE

__all__ = ["layers_taken", "slice_problems", "with_models"]


def with_models(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a file with `models:` in the place of its one slice; any other as it is.

    Example:
        >>> source = {"model": "a", "layer_range": [0, 32], "parameters": {"weight": 1.0}}
        >>> with_models({"merge_method": "linear", "slices": [{"sources": [source]}]})
        {'merge_method': 'linear', 'models': [{'model': 'a', 'parameters': {'weight': 1.0}}]}
    """
    sources = _sources(mapping)
    if not sources or mapping.get("models") is not None:
        return mapping
    models = [{key: value for key, value in one.items() if key != "layer_range"} for one in sources]
    return {key: value for key, value in mapping.items() if key != "slices"} | {"models": models}


def slice_problems(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a file's slices saft does not do, as far as the file by itself tells."""
    if mapping.get("slices") is None:
        return
    sources = _sources(mapping)
    if not sources or mapping.get("models") is not None:
        yield (
            f"slices: {NOT_HERE}; it merges whole models: give one slice with `sources:` alone, or `models:`"
        )
        return
    ranges = [source.get("layer_range") for source in sources]
    if any(not _is_from_the_first(one) or one != ranges[0] for one in ranges):
        told = ", ".join(map(str, ranges))
        yield f"slices: layer_range: {told}: {NOT_HERE}; it merges whole models: give `models:`"


def layers_taken(mapping: Mapping[str, Any]) -> int | None:
    """Return how many layers the one slice of a file takes of each model; None of a file without slices."""
    sources = _sources(mapping)
    return sources[0]["layer_range"][1] if sources else None


def _sources(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the models of the only slice; None where there are more, or something else is in it."""
    slices = mapping.get("slices")
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], Mapping):
        return None
    sources = slices[0].get("sources")
    more = any(value is not None for key, value in slices[0].items() if key != "sources")
    if more or not isinstance(sources, list) or not all(isinstance(one, Mapping) for one in sources):
        return None
    return sources


def _is_from_the_first(layers: Any) -> bool:
    return isinstance(layers, list) and len(layers) == 2 and layers[0] == 0 and isinstance(layers[1], int)
