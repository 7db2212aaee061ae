"""Merges that have a name of their own in the config: which methods they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["named_merges"]


def named_merges(config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each merge that has another name than its method.

    Args:
        config: as results hold it; of several runs side by side, each under its name in "folders".

    Example:
        >>> few = {"method": "ties", "parameters": {"density": 0.1}}
        >>> named_merges({"merges": {"few": few, "pcb": {}}})
        ['few is ties with density 0.1.']
    """
    of_runs = config.get("folders")
    configs = of_runs.values() if isinstance(of_runs, Mapping) else [config]
    return list(dict.fromkeys(sentence for of_run in configs for sentence in _sentences(of_run)))


def _sentences(config: Any) -> Iterator[str]:
    merges = config.get("merges") if isinstance(config, Mapping) else None
    for name, options in merges.items() if isinstance(merges, Mapping) else ():
        method = options.get("method") if isinstance(options, Mapping) else None
        if method in (None, name):
            continue
        parameters = options.get("parameters") or {}
        values = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in parameters.items())
        yield f"{_words(name)} is {_words(method)}{f' with {values}' if values else ''}."


def _words(name: str) -> str:
    return name.replace("_", " ")
