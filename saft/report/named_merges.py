"""Merges that have a name of their own in the config: which methods they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saft.report.kept_parts import method_title
from saft.report.side_by_side import configs_of_runs

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
    return list(dict.fromkeys(told for of_run in configs_of_runs(config) for told in _sentences(of_run)))


def _sentences(config: Mapping[str, Any]) -> Iterator[str]:
    merges = config.get("merges")
    for name, options in merges.items() if isinstance(merges, Mapping) else ():
        method = options.get("method") if isinstance(options, Mapping) else None
        if method in (None, name):
            continue
        parameters = options.get("parameters") or {}
        values = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in parameters.items())
        told = f" with {values}" if values else ""
        yield f"{method_title(name, None)} is {method_title(method, None)}{told}."
