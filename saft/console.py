"""What a verb prints on standard output: tables whose figures are whole, and names as they are."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

__all__ = ["show"]

PIPED = 120  # columns, where it is not known how many there are


def show(renderable: RenderableType) -> None:
    """Print a table, or a text, on standard output.

    Nothing is cut off by an ellipsis: words are folded into several lines, and the figures, which are the
    columns that are aligned to the right, stay whole, if need be beyond the edge of the terminal. Texts are
    printed as they stand: [brackets] and :colons: in names mean nothing.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    width = console.width if console.is_terminal else max(console.width, PIPED)
    everything = console.options.update(width=10_000)
    for part in _parts(renderable):
        console.width = width
        for table in _tables(part, width):
            for column in table.columns:
                column.overflow = "fold"
                if column.justify == "right" and column.width is None:  # a width that is set fits already
                    column.no_wrap = True
                    cells = [column.header, *column.cells]
                    column.min_width = max(
                        Measurement.get(console, everything, cell).maximum for cell in cells
                    )
            console.width = max(console.width, Measurement.get(console, everything, table).minimum)
        console.print(part)


def _parts(renderable: RenderableType) -> Iterator[RenderableType]:
    """Yield what is printed below each other: a table that is too wide leaves the rest as it is."""
    if isinstance(renderable, Group):
        for part in renderable.renderables:
            yield from _parts(part)
    else:
        yield renderable


def _tables(renderable: object, width: int) -> Iterator[Table]:
    if isinstance(renderable, Table):
        yield renderable
    elif isinstance(renderable, Group):
        for part in renderable.renderables:
            yield from _tables(part, width)
    elif isinstance(renderable, Padding):
        yield from _tables(renderable.renderable, width)
    elif callable(tables := getattr(renderable, "tables", None)):  # as many as this width takes
        yield from tables(width)
