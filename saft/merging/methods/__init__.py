"""The merge methods, one file each; a file registers its method under the name that users write."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saft.merging.method import Method, ParameterInfo
from saft.registry import Registry

__all__ = ["METHODS", "MethodInfo", "describe", "methods"]

METHODS: Registry[type[Method]] = Registry("merge method", "saft.merging.methods")


@dataclass(frozen=True)
class MethodInfo:
    """A merge method as `saft methods` shows it; all of it comes from the method's class."""

    name: str
    summary: str
    formula: str
    parameters: list[ParameterInfo]
    scaling: float
    scaling_grid: tuple[float, ...]
    source: str
    differs: str
    notes: str
    needs: str
    gives: str


def methods(name: str | None = None) -> list[MethodInfo]:
    """Return what there is to know of every merge method, or of the one called `name`.

    Raises:
        UserError: there is no such method.

    Example:
        >>> methods("average")[0].summary
        'Takes the mean of the fine-tuned weights.'
        >>> [parameter.name for parameter in methods("ties")[0].parameters]
        ['density', 'elect', 'combine', 'weights', 'granularity']
    """
    kinds = METHODS.items() if name is None else [(name, METHODS.get(name))]
    return [
        MethodInfo(
            found,
            kind.summary(),
            kind.formula,
            kind.parameter_infos(),
            kind.scaling,
            kind.scaling_grid,
            kind.source,
            kind.differs,
            kind.notes(),
            kind.needs,
            kind.gives,
        )
        for found, kind in kinds
    ]


def describe(name: str | None = None) -> RenderableType:
    """Return the table of all methods, or everything about the one called `name`, to be printed by rich."""
    if name is None:
        table = Table("method", "what it does", "needs", "gives", "parameters", box=None, pad_edge=False)
        for info in methods():
            names = ", ".join(item.name for item in info.parameters)
            table.add_row(info.name, info.summary, info.needs, info.gives, names)
        return table
    (info,) = methods(name)
    grid = ", ".join(f"{value:g}" for value in info.scaling_grid)
    coefficient = (
        f"{info.scaling:g}; tried on validation data: {grid}" if len(info.scaling_grid) > 1 else "none"
    )
    parameters = Table("parameter", "range", "default", "meaning", box=None, pad_edge=False)
    for item in info.parameters:
        parameters.add_row(item.name, Text(item.range), str(item.default), item.help)
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("formula", info.formula),
        ("scaling", coefficient),
        ("needs", info.needs),
        ("gives", info.gives),
        ("source", info.source),
        ("differs", info.differs),
    ):
        facts.add_row(key, Text(value))
    below: list[RenderableType] = [parameters, ""] if info.parameters else []
    return Group(f"{info.name}: {info.summary}", "", facts, "", *below, Text(info.notes))
