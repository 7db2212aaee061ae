"""`saft tasks` and `saft arms`: what there is to train on and with, and the keys that each takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saft import config
from saft.optim.perturbations.base import PERTURBATIONS
from saft.registry import Registry
from saft.tasks import TASKS

__all__ = ["arms", "kinds", "tasks"]


def tasks(name: str | None = None) -> RenderableType:
    """Return the kinds of tasks, or everything about the one called `name`, to be printed by rich."""
    after = "saft tasks NAME gives the keys that a kind takes below `task:`, beside `kind: NAME`."
    return _overview(TASKS, after) if name is None else Text("\n".join(_in_full(TASKS, name)))


def arms(name: str | None = None) -> RenderableType:
    """Return the perturbations, or everything about the one called `name`, to be printed by rich."""
    after = (
        "saft arms NAME gives its options and source. In a config: training: {perturbation: {name: NAME}}, "
        "with its options beside the name; an arm without a perturbation is plain AdamW."
    )
    return _overview(PERTURBATIONS, after) if name is None else Text("\n".join(_in_full(PERTURBATIONS, name)))


def kinds(registry: Registry[Any], key: str) -> Iterator[config.Key]:
    """Yield the keys that each registered kind of thing takes below `key`."""
    for name, kind in registry.items():
        yield config.Key(f"{key}.kind", "word", name, _summary(kind))
        yield from config.describe(kind, f"{key}.")


def _overview(registry: Registry[Any], after: str) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, kind in registry.items():
        table.add_row(name, Text(_summary(kind)))
    return Group(table, "", after)


def _in_full(registry: Registry[Any], name: str) -> Iterator[str]:
    kind = registry.get(name)
    documentation, _, below = inspect.cleandoc(kind.__doc__ or "").partition("\nExample:")
    source = below.partition("\n\n")[2]  # what follows the example
    yield f"{name}: {documentation.rstrip()}"
    if source:
        yield f"\n{source.rstrip()}"
    yield "\nKeys:"
    for key in config.describe(kind):
        yield f"  {key.name}: {key.default}  ({key.type})"
        if key.documentation:
            yield f"      {key.documentation}"


def _summary(kind: type[Any]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n")[0]
