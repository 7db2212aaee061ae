"""Measured quantities as rich tables, whatever they are: each by its own name and unit, its meaning below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from saft.interference.quantity import Figure, Measured, Quantity, numbers_of
from saft.interference.weights import TRIMMED
from saft.report.columns import Column, Stacked, stacked
from saft.report.over_seeds import OverSeeds

__all__ = ["heading", "legend", "measured_tables", "with_spread", "without_errors"]


def measured_tables(measured: Mapping[str, Measured], quantities: Mapping[str, Quantity]) -> RenderableType:
    """Return tables of one set of models: figures of each, of each pair, and of all together, with a legend.

    Args:
        measured: quantity -> number, task -> number, or task -> task -> number; nested deeper in a grid.
        quantities: what each of them is.
    """
    columns: dict[str, list[Column]] = {"task": [], "pair": []}  # by what their rows are
    of_set, matrices, deep = {}, list[Stacked](), list[str]()
    errors = {quantities[name].error_of: dict(numbers_of(value)) for name, value in measured.items()}
    for name in without_errors({name: quantities[name] for name in measured}):
        value, quantity, error = measured[name], quantities[name], errors.get(name, {})
        if len(quantity.axes) > 2:
            deep.append(name.replace("_", " "))
            continue
        if len(quantity.axes) == 2 and not (quantity.per == "pair" and _is_symmetric(value)):
            matrices += _matrix(Figure.of(name, quantity, value), error)
            continue
        if quantity.per == "set":
            written = (_with_error(quantity, v, error.get(key)) for key, v in numbers_of(value))
            of_set[heading(name, quantity)] = Text(" ".join(written))
            continue
        each = dict(_pairs(value) if quantity.per == "pair" else numbers_of(value))
        figures = {
            " – ".join(key): Text(_with_error(quantity, number, error.get(key)))
            for key, number in each.items()
        }
        rows = "pair" if quantity.per == "pair" else quantity.axes[0]
        columns.setdefault(rows, []).append(Column(heading(name, quantity), figures))
    tables = list[Stacked]()
    for rows, of_rows in columns.items():
        name = {"task": "model"}.get(rows, rows)
        tables += stacked(f"each {name}", name, _rows(of_rows), of_rows)
    return Group(
        *tables,
        *matrices,
        *stacked("all together", "quantity", list(of_set), [Column("", of_set)]),
        *([Text(f"\nonly in the JSON file, --out=FILE: {', '.join(deep)}")] if deep else []),
        Text("\n" + legend({name: quantities[name] for name in measured}), style="dim"),
    )


def heading(name: str, quantity: Quantity) -> str:
    """Return a quantity's name and unit, as columns are headed."""
    words = name.replace("_", " ")
    return f"{words}, {quantity.unit}" if quantity.unit else words


def legend(quantities: Mapping[str, Quantity]) -> str:
    """Return a line for each quantity that says what it is, and one for all that are of trimmed vectors."""
    whole = {n: q for n, q in quantities.items() if n.removesuffix(TRIMMED) not in {*quantities} - {n}}
    if errors := whole.keys() - without_errors(whole).keys():
        whole = {name: quantity for name, quantity in whole.items() if name not in errors}
    lines = [f"{name.replace('_', ' ')}: {quantity.meaning}" for name, quantity in whole.items()]
    if errors:
        lines.append("±: the standard error; of a difference of scores, over the same examples")
    if any(name not in whole and name not in errors for name in quantities):
        lines.append("trimmed: the same, of task vectors that are cut to their largest entries")
    return "\n".join(lines)


def without_errors(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """Return the quantities but those that are standard errors of others among them.

    Example:
        >>> harm = Quantity("example", per="pair")
        >>> list(without_errors({"harm": harm, "harm_error": harm.paired_error("harm")}))
        ['harm']
    """
    return {name: what for name, what in quantities.items() if what.error_of not in quantities}


def with_spread(values: OverSeeds | None, quantity: Quantity) -> str:
    """Return `mean ± deviation`, with as many decimals as the mean is printed with; a dash for nothing."""
    if values is None:
        return "–"
    return values.written(quantity.scale, quantity.decimals_of(values.mean))


def _rows(columns: list[Column]) -> list[str]:
    return list(dict.fromkeys(row for column in columns for row in column.figures))


def _with_error(quantity: Quantity, value: float, error: float | None) -> str:
    """Return a number as tables print it, with its standard error where that is known."""
    text = quantity.format(value)
    if error is None or not math.isfinite(error):
        return text
    return f"{text} ± {quantity.scale * error:.{quantity.decimals_of(value)}f}"


def _matrix(figure: Figure, errors: Mapping[tuple[str, ...], float]) -> list[Stacked]:
    """Return a table of a figure with two axes: the first downwards, the second across."""
    down, across = figure.axes
    by_row = [figure.values[start :: len(across.ticks)] for start in range(len(across.ticks))]
    columns = [
        Column(
            tick,
            {
                row: Text(_with_error(figure.quantity, number, errors.get((row, tick))))
                for row, number in zip(down.ticks, numbers, strict=True)
                if number is not None
            },
        )
        for tick, numbers in zip(across.ticks, by_row, strict=True)
    ]
    title = f"{heading(figure.name, figure.quantity)}: {down.name} ↓, {across.name} →"
    return stacked(title, "", down.ticks, columns)


def _is_symmetric(value: Measured) -> bool:
    values = dict(numbers_of(value))
    return all(values.get((t, s)) == number for (s, t), number in values.items())


def _pairs(value: Measured) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield each pair of two once, of a value that is the same in both orders."""
    seen: set[tuple[str, ...]] = set()
    for (s, t), number in numbers_of(value):
        if s != t and (t, s) not in seen:
            yield (s, t), number
        seen.add((s, t))
