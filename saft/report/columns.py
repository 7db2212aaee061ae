"""Rich tables of figures by row, continued below where not all columns fit: no name and no figure is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "plain_table", "stacked"]

WIDTH = 80
BETWEEN = 2  # columns are this far apart


@dataclass(frozen=True)
class Column:
    """One column of figures.

    Args:
        heading: may be broken between words.
        figures: row -> figure, of one line or more; a row without one has a dash.
    """

    heading: str
    figures: Mapping[str, Text]

    def figure(self, row: str) -> Text:
        """Return the figure of a row; a dash where there is none."""
        return self.figures.get(row, Text("–"))

    def needs(self, rows: Sequence[str]) -> int:
        """Return the width below which a word or a figure would be broken."""
        lines = [line for row in rows for line in self.figure(row).plain.splitlines()]
        return max(map(len, (*self.heading.split(), *lines)), default=1)


def stacked(
    title: str, of: str, rows: Sequence[str], columns: Sequence[Column], always: Sequence[Column] = ()
) -> list[Table]:
    """Return tables that hold all columns, each as many as fit into 80 characters.

    Args:
        title: of the first table.
        of: heading of the rows' names.
        rows: their names, the first column of every table.
        columns: in their order.
        always: columns that every table begins with.
    """
    if not rows or not (columns or always):
        return []
    names = Column(of, {row: Text(row) for row in rows})
    room = WIDTH - sum(column.needs(rows) + BETWEEN for column in (names, *always))
    groups: list[list[Column]] = [[]]
    left = room
    for column in columns:
        need = column.needs(rows) + BETWEEN
        if need > left and groups[-1]:
            groups.append([])
            left = room
        groups[-1].append(column)
        left -= need
    return [
        _table(title if i == 0 else f"{title}, continued", rows, [names, *always, *group])
        for i, group in enumerate(groups)
    ]


def plain_table(title: str) -> Table:
    """Return an empty table in the style of all tables here: a rule below the head, nothing else."""
    return Table(
        title=Text(f"\n{title}"),
        title_justify="left",
        title_style="italic",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        padding=(0, 1),
    )


def _table(title: str, rows: Sequence[str], columns: Sequence[Column]) -> Table:
    table = plain_table(title)
    needed = [column.needs(rows) for column in columns]
    whole = [max(need, len(column.heading)) for need, column in zip(needed, columns, strict=True)]
    widths = whole if sum(width + BETWEEN for width in whole) <= WIDTH else needed
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify = "left" if i == 0 else "right"
        table.add_column(Text(column.heading), justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(column.figure(row) for column in columns))
    return table
