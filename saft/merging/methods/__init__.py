"""The merge methods, one file each; a file registers its method under the name that users write."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saft.merging.method import Method, ParameterInfo
from saft.registry import Registry

__all__ = ["METHODS", "MethodInfo", "describe", "methods", "shown"]

METHODS: Registry[type[Method]] = Registry(
    Method, "merge method", "saft.merging.methods", "saft.merging.mergekit"
)


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
    deviations: str
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
            name,
            kind.summary(),
            kind.formula,
            kind.parameter_infos(),
            kind.scaling,
            kind.scaling_grid,
            kind.source,
            kind.deviations,
            kind.notes(),
            kind.needs,
            kind.gives,
        )
        for name, kind in kinds
    ]


def describe(name: str | None = None) -> RenderableType:
    """Return the table of all methods, or everything about the one called `name`, to be printed by rich."""
    if name is None:
        return _overview()
    (info,) = methods(name)
    grid = ", ".join(f"{value:g}" for value in info.scaling_grid)
    coefficient = (
        f"{info.scaling:g}; tried on validation data: {grid}" if len(info.scaling_grid) > 1 else "none"
    )
    parameters = Table("parameter", "range", "default", "meaning", box=None, pad_edge=False)
    for item in info.parameters:
        parameters.add_row(item.name, Text(item.range), shown(item.default), item.help)
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("formula", info.formula),
        ("scaling", coefficient),
        ("needs", info.needs),
        ("gives", info.gives),
        ("source", info.source),
        ("deviations", info.deviations),
    ):
        facts.add_row(key, Text(value))
    below: list[RenderableType] = [parameters, ""] if info.parameters else []
    return Group(f"{info.name}: {info.summary}", "", facts, "", *below, Text(info.notes))


def _overview() -> RenderableType:
    """Return all methods, with those together that need and give the same; what needs least comes first."""
    groups: dict[tuple[str, str], list[MethodInfo]] = {}
    for info in methods():
        groups.setdefault((info.needs, info.gives), []).append(info)
    parts: list[RenderableType] = []
    width = max(len(info.name) for info in methods())
    for (needs, gives), members in sorted(
        groups.items(), key=lambda group: (len(group[0][0]), -len(group[1]))
    ):
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=width)
        for info in members:
            table.add_row(info.name, Text(info.summary))
        parts += [Text(f"Needs {needs}; gives {gives}:", style="bold"), table, ""]
    return Group(
        *parts,
        "saft methods NAME gives a method's formula, parameters and source, and says where it differs from "
        "that. LiNeS can scale the layers after any method that gives one model: `lines` in the merge file.",
    )


def shown(value: object) -> str:
    """Return a parameter's value as it is written in a merge file.

    Example:
        >>> shown((1.0, 0.5)), shown(True)
        ('[1, 0.5]', 'true')
    """
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{number:g}" for number in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
