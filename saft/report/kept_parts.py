"""Merges that keep a part per task: what they are called beside the others, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

from saft.report.cell_result import KeptParts

__all__ = ["kept_sentences", "method_title"]


def method_title(method: str, parts: KeptParts | None) -> str:
    """Return what a merge is called at the head of its figures.

    Args:
        method: its name.
        parts: what it stores, where it keeps a part per task.

    Example:
        >>> method_title("task_arithmetic", None), method_title("emr", KeptParts(87_000_000, 2_700_000))
        ('task arithmetic', 'emr (part per task)')
    """
    words = method.replace("_", " ")
    return words if parts is None else f"{words} (part per task)"


def kept_sentences(parts: Mapping[str, KeptParts], others: bool) -> list[str]:
    """Return what a reader must know of the methods that keep a part per task: a sentence for each.

    Args:
        parts: method -> what it stores.
        others: whether there are methods that give one model too, which means over methods are of then.

    Example:
        >>> print(*kept_sentences({"emr": KeptParts(87_000_000, 2_700_000)}, others=True))
        emr (part per task): each task is scored with a model of its own, so its user must know which task an
        input is of; stored beside the base are 87.0 MB for all tasks and 2.7 MB for each. Means over methods
        are without it.
    """
    without = " Means over methods are without it." if others else ""
    return [
        f"{method_title(method, kept)}: each task is scored with a model of its own, so its user must know "
        f"which task an input is of; stored beside the base are {_stored(kept)}.{without}"
        for method, kept in parts.items()
    ]


def _stored(kept: KeptParts) -> str:
    each = f"{_size(kept.each)} for each"
    return f"{_size(kept.shared)} for all tasks and {each}" if kept.shared else f"{each} task"


def _size(count: int) -> str:
    """Return a number of bytes with its unit, as disks and downloads are sold."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
