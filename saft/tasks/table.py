"""Rows of a labelled table: a text and its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saft import config
from saft.errors import UserError, did_you_mean
from saft.tasks.table_source import TableSource, check_columns, divide, load, present, values_as_texts

__all__ = ["Rows", "TableConfig", "read"]

Rows = list[tuple[str, str]]


@config.checked
@dataclass(frozen=True)
class TableConfig(TableSource):
    """Where a labelled table is, and how it splits."""

    text: str | list[str]
    """The column that holds the text; of several columns, the texts are joined by a line break."""
    label: str
    """The column that holds the label: as CSV spells it; of others 1, 1.5, true, or the class's name."""


def read(table: TableConfig, labels: Sequence[str], drop_other_labels: bool, where: str) -> dict[str, Rows]:
    """Read a table and split it into train, validation and test rows.

    Args:
        table: where it is; see `TableConfig`.
        labels: the labels of the task.
        drop_other_labels: leave out rows with any other label, instead of refusing them.
        where: the place in front of every message, for example "quickstart.yaml: tasks.reuters".

    Returns:
        {"train", "validation", "test"} -> list of (text, label), disjoint, in an order fixed by `split_seed`.

    Raises:
        UserError: a file, split, column, text or label is missing, or a row has a label that is not in the
            list.
    """
    rows = {split: _rows(content, split, table, where) for split, content in load(table, where).items()}
    checked = {split: _checked(part, labels, drop_other_labels, where) for split, part in rows.items()}
    divided = divide(checked, table)
    for split, part in divided.items():
        if not part:
            raise UserError(f"{where}.data: the {split} split is empty; no row has one of the task's labels")
    return divided


def _rows(content: Any, split: str, table: TableConfig, where: str) -> Rows:
    columns = [table.text] if isinstance(table.text, str) else table.text
    named = [("data.text", column) for column in columns] + [("data.label", table.label)]
    check_columns(content, named, where)
    parts = zip(*(values_as_texts(content, column) for column in columns), strict=True)
    texts = ["\n".join(filter(None, filled)) for filled in parts]
    labels = values_as_texts(content, table.label)
    rows = present({"data.text": texts, "data.label": labels}, table, split, where)
    return [(texts[row], labels[row]) for row in rows]


def _checked(rows: Rows, labels: Sequence[str], drop_other_labels: bool, where: str) -> Rows:
    known = set(labels)
    strangers = sorted({label for _, label in rows} - known)
    if strangers and not drop_other_labels:
        shown = ", ".join(f"'{label}'" for label in strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        raise UserError(
            f"{where}.labels: {len(strangers)} label(s) of the data are not in the list: {shown};"
            f" add them, or set drop_other_labels: true"
        )
    present = {label for _, label in rows}
    for label in labels:
        if label not in present:
            raise UserError(f"{where}.labels: no row has the label '{label}'{did_you_mean(label, present)}")
    return [row for row in rows if row[1] in known]
