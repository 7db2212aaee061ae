"""Labels of the data against those of a task, whatever it is that is labelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from saft.errors import UserError, did_you_mean
from saft.tasks.table_source import TableSource, divide
from saft.tasks.table_split import LabelledRow

__all__ = ["check_labels", "divide_labelled", "labelled_splits"]

T = TypeVar("T")


def labelled_splits(
    rows: Mapping[str, list[LabelledRow[T, str]]],
    source: TableSource,
    labels: Sequence[str],
    drop_other_labels: bool,
    where: str,
) -> dict[str, list[LabelledRow[T, str]]]:
    """Check the labels of rows, and split them into train, validation and test.

    Args:
        rows: "train", and "test" where the source has it -> (input, label).
        source: says how many are held out.
        labels: the labels of the task.
        drop_other_labels: leave out rows with any other label, instead of refusing them.
        where: the place in front of every message.

    Raises:
        UserError: a row has a label that is not in the list, a label has no row, or a split is empty.
    """
    for part in rows.values():
        check_labels(((row[1], row.place) for row in part), labels, drop_other_labels, where)
    known = set(labels)
    kept = {split: [row for row in part if row[1] in known] for split, part in rows.items()}
    return divide_labelled(kept, source, where)


def divide_labelled(
    rows: Mapping[str, list[LabelledRow[T, str]]], source: TableSource, where: str
) -> dict[str, list[LabelledRow[T, str]]]:
    """Split rows into train, validation and test.

    Args:
        rows: split in the data -> rows with their labels.
        source: how the data split.
        where: the place in front of every message.

    Raises:
        UserError: a split is empty.
    """
    return divide(rows, source, where, "; no row has one of the task's labels")


def check_labels(
    of_data: Iterable[tuple[str, str]], labels: Sequence[str], drop_other_labels: bool, where: str
) -> None:
    """Find labels of the data that the task does not have, and labels of the task that the data do not have.

    Args:
        of_data: (label, its place) of all rows.
        labels: those of the task.
        drop_other_labels: whether rows with a label that the task does not have are left out.
        where: the place in front of every message.

    Raises:
        UserError: there are some.
    """
    present = dict[str, str]()
    for label, place in of_data:
        present.setdefault(label, place)
    strangers = sorted(present.keys() - set(labels))
    if strangers and not drop_other_labels:
        shown = ", ".join(f"'{label}'" for label in strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        first = strangers[0]
        raise UserError(
            f"{where}.labels: {len(strangers)} label(s) of the data are not in the list: {shown}; "
            f"{present[first]} has '{first}'; {_other_spelling(first, labels)}add them, or set "
            "drop_other_labels: true"
        )
    for label in labels:
        if label not in present:
            hint = did_you_mean(label, present)
            raise UserError(f"{where}.labels: no row has the label '{label}'{hint}")


def _other_spelling(stranger: str, labels: Sequence[str]) -> str:
    """Return the label that is the same number as one that is in no list, as a part of a message."""
    for label in labels:
        try:
            if float(label) == float(stranger):
                return f"write '{label}' as the data do, '{stranger}'; else "
        except ValueError:
            continue
    return ""
