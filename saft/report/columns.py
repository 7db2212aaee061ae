"""Rich tables of figures by row, continued below where not all columns fit: no name and no figure is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from saft.report.row_names import LARGEST_SHARE, broken
from saft.tasks.metric import Metric, Score

__all__ = ["Column", "Stacked", "plain_table", "score_columns", "stacked"]

BETWEEN = 2  # columns are this far apart
FEWEST_LETTERS = 16  # of a line of a row's name


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
        return max(map(cell_len, (*self.heading.split(), *lines)), default=1)


@dataclass(frozen=True)
class Stacked:
    """Columns as one table, or as several below each other where the terminal is not wide enough for one.

    Args:
        title: of the first table.
        of: heading of the rows' names.
        rows: their names, the first column of every table.
        columns: in their order.
        always: columns that every table begins with.
    """

    title: str
    of: str
    rows: Sequence[str]
    columns: Sequence[Column]
    always: Sequence[Column] = ()

    def tables(self, width: int) -> list[Table]:
        """Return the tables, each as many columns as fit; a single column that does not is wider.

        Long names are broken into lines where not all columns fit beside them.

        Args:
            width: of the terminal, in characters.
        """
        names = Column(self.of, {row: Text(row) for row in self.rows})
        needs = [column.needs(self.rows) + BETWEEN for column in self.columns]
        always = sum(column.needs(self.rows) + BETWEEN for column in self.always)
        if names.needs(self.rows) + BETWEEN + always + sum(needs) > width:
            beside = width - always - max(needs, default=0) - BETWEEN
            most = max(min(beside, int(LARGEST_SHARE * width)), FEWEST_LETTERS)
            names = Column(self.of, {row: Text(broken(row, most)) for row in self.rows})
        first = [names, *self.always]
        room = width - sum(column.needs(self.rows) + BETWEEN for column in first)
        groups: list[list[Column]] = [[]]
        left = room
        for column in self.columns:
            need = column.needs(self.rows) + BETWEEN
            if need > left and groups[-1]:
                groups.append([])
                left = room
            groups[-1].append(column)
            left -= need
        titles = [self.title, *[f"{self.title}, continued"] * (len(groups) - 1)]
        return [
            _table(title, self.rows, [*first, *group], width)
            for title, group in zip(titles, groups, strict=True)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.tables(options.max_width)


def score_columns(metrics: Mapping[str, Metric], scores: Mapping[str, Mapping[str, Score]]) -> list[Column]:
    """Return a column of scores for each task.

    Args:
        metrics: task -> what its scores are.
        scores: row -> task -> score; a task that a row lacks has a dash there.
    """
    return [
        Column(
            f"{task}, {metric.name} {metric.unit}".rstrip(),
            {
                row: Text(metric.format(of_row[task].value))
                for row, of_row in scores.items()
                if task in of_row
            },
        )
        for task, metric in metrics.items()
    ]


def stacked(
    title: str, of: str, rows: Sequence[str], columns: Sequence[Column], always: Sequence[Column] = ()
) -> list[Stacked]:
    """Return the columns as tables as wide as the terminal allows; nothing where there is no row or column.

    Args:
        title, of, rows, columns, always: see `Stacked`.
    """
    return [Stacked(title, of, rows, columns, always)] if rows and (columns or always) else []


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


def _table(title: str, rows: Sequence[str], columns: Sequence[Column], room: int) -> Table:
    table = plain_table(title)
    needed = [column.needs(rows) for column in columns]
    whole = [max(need, cell_len(column.heading)) for need, column in zip(needed, columns, strict=True)]
    widths = whole if sum(width + BETWEEN for width in whole) <= room else needed
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify = "left" if i == 0 else "right"
        table.add_column(Text(column.heading), justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(column.figure(row) for column in columns))
    return table
