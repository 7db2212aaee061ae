"""What a merge carries along of its models beside weights: tasks and their heads, each by its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saft.errors import UserError, collecting
from saft.files.fingerprints import fingerprint
from saft.merging.inputs.source import Source

__all__ = ["Carried", "carried"]


@dataclass(frozen=True)
class Carried:
    """The tasks of the models of a merge, and their heads.

    Args:
        tasks: task -> its keys, as the models' saft.json declare them.
        heads: task -> the file of its head.
    """

    tasks: Mapping[str, Any]
    heads: Mapping[str, Path]


def carried(models: Mapping[str, Source]) -> Carried:
    """Return what the models of a merge declare, and their heads.

    A task of which several models have the name, but not the same keys and the same head, is called by its
    model where that has no other: all that `saft train` makes without a `name` are called "task".

    Args:
        models: name -> model.

    Raises:
        UserError: heads that differ have one name, since a model has several tasks, or the name of another's
            task; or a saft.json is damaged.

    Example:
        >>> carried({})
        Carried(tasks={}, heads={})
    """
    problems: list[str] = []
    of_models: dict[str, dict[str, tuple[Any, Path | None]]] = {}
    for model, source in models.items():
        with collecting(problems, f"models.{model}: "):
            tasks, heads = source.tasks, source.heads
            of_models[model] = {name: (tasks.get(name), heads.get(name)) for name in {**tasks, **heads}}
    every = Carried(tasks := {}, heads := {})
    for model, own in of_models.items():
        for name, (keys, head) in own.items():
            alike = all(_same(other[name], own[name]) for other in of_models.values() if name in other)
            called = name if alike or len(own) > 1 else model
            if keys is not None:
                tasks[called] = keys
            if head is not None and not _equal(heads.setdefault(called, head), head):
                problems.append(
                    f"models.{model}: {head} and {heads[called]} differ but have one name; models of one "
                    "task each are told apart by your names of the models: models: {NAME: FOLDER, ...}"
                )
    if problems:
        raise UserError(*problems)
    return every


def _same(one: tuple[Any, Path | None], other: tuple[Any, Path | None]) -> bool:
    return bool(one[0] == other[0]) and _equal(one[1], other[1])


def _equal(one: Path | None, other: Path | None) -> bool:
    return one == other or (one is not None and other is not None and fingerprint(one) == fingerprint(other))
