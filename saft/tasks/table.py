"""Rows of a labelled table: a text and its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from saft import config
from saft.errors import UserError
from saft.tasks.labels import check_labels, divide_labelled, labelled_splits
from saft.tasks.table_source import TableSource, divide, load
from saft.tasks.table_split import LabelledRow, TableSplit

__all__ = ["Rows", "TableConfig", "Text", "read", "read_numbers"]

LARGEST = 3.4e38
"""Of the numbers that are learned: of 32 bits."""

Text = str | tuple[str, str]
"""A text, or a pair of texts."""
Rows = list[LabelledRow[Text, str]]


@config.checked
@dataclass(frozen=True)
class TableConfig(TableSource):
    """Where a labelled table is, and how it splits."""

    text: str | list[str]
    """The column that holds the text; of several columns, the texts are joined by a line break."""
    label: str
    """The column that holds the label: as CSV spells it; of others 1, 1.5, true, or the class's name."""
    pair: str | None = field(default=None, kw_only=True)
    """The column of a second text; the model's tokenizer writes the two as it does with pairs."""


def read(
    table: TableConfig, labels: Sequence[str], drop_other_labels: bool, where: str, several: bool = False
) -> dict[str, Rows]:
    """Read a table and split it into train, validation and test rows.

    Args:
        table: where it is; see `TableConfig`.
        labels: the labels of the task.
        drop_other_labels: leave out rows with any other label, instead of refusing them.
        where: the place in front of every message, for example "quickstart.yaml: tasks.reuters".
        several: whether a row may have several labels, with commas between them, or none.

    Returns:
        {"train", "validation", "test"} -> list of (text, label), disjoint, in an order fixed by `split_seed`.

    Raises:
        UserError: a file, split, column, text or label is missing, or a row has a label that is not in the
            list.
    """
    rows = {split: _rows(part, table, several) for split, part in load(table, where).items()}
    if not several:
        return labelled_splits(rows, table, labels, drop_other_labels, where)
    checked = {
        split: _checked_several(part, labels, drop_other_labels, where) for split, part in rows.items()
    }
    return divide_labelled(checked, table, where)


def read_numbers(table: TableConfig, where: str) -> dict[str, list[LabelledRow[Text, float]]]:
    """Read a table whose labels are numbers, and split it into train, validation and test rows.

    Raises:
        UserError: a file, split, column, text or label is missing, a label is not a number of 32 bits, or a
            split is empty.
    """
    rows: dict[str, list[LabelledRow[Text, float]]] = {}
    for split, part in load(table, where).items():
        rows[split] = []
        for row in _rows(part, table):
            text, label = row
            try:
                number = float(label)
            except ValueError:
                number = math.nan
            if not abs(number) <= LARGEST:
                needed = "number" if math.isnan(number) else f"number up to {LARGEST}"
                raise UserError(
                    f"{where}.data.label: {row.place} holds '{label}' in column '{table.label}', which is no "
                    f"{needed}; write one, empty the cell and set drop_missing: true, or name another column"
                )
            rows[split].append(LabelledRow(text, number, row.place))
    return divide(rows, table, where)


def _rows(part: TableSplit, table: TableConfig, several: bool = False) -> Rows:
    columns = [table.text] if isinstance(table.text, str) else table.text
    named = [("data.text", column) for column in columns] + [("data.label", table.label)]
    part.check_columns(named + ([("data.pair", table.pair)] if table.pair else []))
    parts = zip(*(part.texts("data.text", column) for column in columns), strict=True)
    texts = ["\n".join(filter(None, filled)) for filled in parts]
    labels = part.texts("data.label", table.label)
    needed = {"data.text": _stripped(texts)} | ({} if several else {"data.label": labels})
    if table.pair is None:
        return [LabelledRow(texts[row], labels[row], part.place(row)) for row in part.present(needed)]
    seconds = part.texts("data.pair", table.pair)
    rows = part.present(needed | {"data.pair": _stripped(seconds)})
    return [LabelledRow((texts[row], seconds[row]), labels[row], part.place(row)) for row in rows]


def _stripped(texts: Sequence[str]) -> list[str]:
    """Return texts by which one of white space alone is none."""
    return [text.strip() for text in texts]


def _checked_several(rows: Rows, labels: Sequence[str], drop_other_labels: bool, where: str) -> Rows:
    """Return the rows with the labels of the task; those with none of them are examples of none."""
    parts = [[part.strip() for part in row[1].split(",") if part.strip()] for row in rows]
    each = ((label, row.place) for row, own in zip(rows, parts, strict=True) for label in own)
    check_labels(each, labels, drop_other_labels, where)
    return [
        LabelledRow(row[0], ",".join(label for label in own if label in labels), row.place)
        for row, own in zip(rows, parts, strict=True)
    ]
