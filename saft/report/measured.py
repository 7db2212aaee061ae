"""Measured quantities as rich tables, whatever they are: each by its own name and unit, its meaning below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from saft.interference.quantity import Measured, Quantity, numbers_of
from saft.interference.weights import TRIMMED
from saft.report.columns import Column, stacked
from saft.report.over_seeds import OverSeeds

__all__ = ["heading", "legend", "measured_tables", "with_spread"]


def measured_tables(measured: Mapping[str, Measured], quantities: Mapping[str, Quantity]) -> RenderableType:
    """Return tables of one set of models: figures of each, of each pair, and of all together, with a legend.

    Args:
        measured: quantity -> number, task -> number, or task -> task -> number.
        quantities: what each of them is.
    """
    columns: dict[str, list[Column]] = {"task": [], "pair": []}
    of_set = {}
    for name, value in measured.items():
        quantity = quantities[name]
        if quantity.per == "set":
            of_set[heading(name, quantity)] = Text(" ".join(quantity.format(v) for _, v in numbers_of(value)))
            continue
        each = dict(_pairs(value)) if quantity.per == "pair" else {k[0]: v for k, v in numbers_of(value)}
        figures = {row: Text(quantity.format(number)) for row, number in each.items()}
        columns[quantity.per].append(Column(heading(name, quantity), figures))
    return Group(
        *stacked("each model", "model", _rows(columns["task"]), columns["task"]),
        *stacked("each pair", "pair", _rows(columns["pair"]), columns["pair"]),
        *stacked("all together", "quantity", list(of_set), [Column("", of_set)]),
        Text("\n" + legend({name: quantities[name] for name in measured}), style="dim"),
    )


def heading(name: str, quantity: Quantity) -> str:
    """Return a quantity's name and unit, as columns are headed."""
    words = name.replace("_", " ")
    return f"{words}, {quantity.unit}" if quantity.unit else words


def legend(quantities: Mapping[str, Quantity]) -> str:
    """Return a line for each quantity that says what it is, and one for all that are of trimmed vectors."""
    whole = {n: q for n, q in quantities.items() if n.removesuffix(TRIMMED) not in {*quantities} - {n}}
    lines = [f"{name.replace('_', ' ')}: {quantity.meaning}" for name, quantity in whole.items()]
    if len(whole) < len(quantities):
        lines.append("trimmed: the same, of task vectors that are cut to their largest entries")
    return "\n".join(lines)


def with_spread(values: OverSeeds | None, quantity: Quantity) -> str:
    """Return `mean ± deviation`, with as many decimals as the mean is printed with; a dash for nothing."""
    if values is None:
        return "–"
    return values.written(quantity.scale, quantity.decimals_of(values.mean))


def _rows(columns: list[Column]) -> list[str]:
    return list(dict.fromkeys(row for column in columns for row in column.figures))


def _pairs(value: Measured) -> Iterator[tuple[str, float]]:
    """Yield each pair of two: once where the order of the two does not matter, else in both."""
    values = {key: number for key, number in numbers_of(value) if key[0] != key[1]}
    symmetric = all(values.get((t, s)) == number for (s, t), number in values.items())
    seen: set[tuple[str, ...]] = set()
    for (s, t), number in values.items():
        if not symmetric:
            yield f"{s} → {t}", number
        elif (t, s) not in seen:
            yield f"{s} – {t}", number
        seen.add((s, t))
