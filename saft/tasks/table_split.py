"""A split of a table as it was read: its columns as texts, and where each row stands, for messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import numpy

from saft.errors import UserError, did_you_mean

__all__ = ["LabelledRow", "TableSplit", "as_text", "is_written", "present", "without_fillers"]

# What has one spelling; the first item of a list, which may be a list again, stands for all.
_WRITTEN = (str, int, float, numpy.floating, Decimal, date, time, timedelta, list, type(None))

T = TypeVar("T")
L = TypeVar("L")


class LabelledRow(tuple[T, L]):
    """An input and its label, as a pair that knows where it comes from.

    Args:
        given: the input.
        label: its label.
        place: where it stands, for messages.

    Example:
        >>> row = LabelledRow("a text", "spam", "row 3 of the train split of mail.csv")
        >>> text, label = row
        >>> label, row.place
        ('spam', 'row 3 of the train split of mail.csv')
    """

    place: str

    def __new__(cls, given: T, label: L, place: str) -> LabelledRow[T, L]:
        """Return a row."""
        row = super().__new__(cls, (given, label))
        row.place = place
        return row

    def __getnewargs__(self) -> tuple[T, L, str]:
        """Return what copies are made of."""
        return (self[0], self[1], self.place)


@dataclass(frozen=True)
class TableSplit:
    """A split of a table; columns are named with the key of the config that names them.

    Args:
        rows: a `datasets.Dataset`.
        name: train or test.
        origin: the file that it comes from, or the hub's name of the table.
        drop_missing: whether rows may be left out in which a value is missing.
        where: the place in front of every message.
    """

    rows: Any
    name: str
    origin: str
    drop_missing: bool
    where: str

    def place(self, row: int) -> str:
        """Return where a row stands, for messages.

        Args:
            row: its number, from 0.

        Example:
            >>> TableSplit([], "train", "mail.csv", False, "t").place(2)
            'row 3 of the train split of mail.csv'
        """
        return f"row {row + 1} of the {self.name} split of {self.origin}"

    def check_columns(self, columns: Sequence[tuple[str, str]]) -> None:
        """Find columns that are not there.

        Args:
            columns: (key of the config that names the column, column).

        Raises:
            UserError: a column is missing.
        """
        for key, column in columns:
            if column not in self.rows.column_names:
                raise UserError(
                    f"{self.where}.{key}: there is no column '{column}' in the {self.rows.split or 'given'} "
                    "split" + (_uncut(self.rows.column_names) or did_you_mean(column, self.rows.column_names))
                )

    def values(self, column: str) -> list[Any]:
        """Return a column as it is."""
        values: list[Any] = self.rows[column][:]  # in one piece: walked, it is decoded a row at a time
        return values

    def texts(self, key: str, column: str) -> list[str]:
        """Return a column as the user writes it: a class's name, true, 1.5; "" where a value is missing.

        NaN is missing too: pandas has no other sign for that in a column of floats. Of a list the
        values stand with commas between them.

        Args:
            key: of the config, that names the column.
            column: its name; `check_columns` has found it.

        Raises:
            UserError: a value is neither text nor number, such as a mapping or an image.
        """
        feature = self.rows.features[column]
        single = getattr(feature, "feature", feature)
        names = getattr(single, "names", None)
        values = self.values(column)
        if getattr(single, "dtype", None) in ("float16", "float32"):  # 3.8, not the 3.7999999523 next to it
            values = [_short(value, getattr(numpy, single.dtype)) for value in values]
        for row, value in enumerate(values):
            if not is_written(value):
                raise UserError(
                    f"{self.where}.{key}: {self.place(row)} holds {value!r:.60} in column '{column}', which "
                    "is neither text nor number; write what is meant into a column of its own"
                )
        return [as_text(value, names) for value in values]

    def present(self, values: Mapping[str, Sequence[Any]]) -> list[int]:
        """Return the numbers of the rows that lack nothing, from 0.

        Args:
            values: key of the config -> the value of every row; "", None or an empty list is missing.

        Raises:
            UserError: a value is missing, and `drop_missing` is false.
        """
        return present(values, self.place, self.drop_missing, self.where)


def present(
    values: Mapping[str, Sequence[Any]], place: Callable[[int], str], drop_missing: bool, where: str
) -> list[int]:
    """Return the numbers of the rows that lack nothing, from 0.

    Args:
        values: key of the config -> the value of every row; "", None or an empty list is missing.
        place: number of a row -> where it is, for messages.
        drop_missing: whether rows that lack something are left out.
        where: the place in front of every message.

    Raises:
        UserError: a value is missing, and `drop_missing` is false.

    Example:
        >>> present({"data.label": ["a", ""]}, str, True, "task")
        [0]
    """
    for key, column in values.items():
        missing = [row for row, value in enumerate(column) if not value]
        if missing and not drop_missing:
            raise UserError(
                f"{where}.{key}: {len(missing)} row(s) have no {key.rpartition('.')[2]}, the first "
                f"is {place(missing[0])}; fix the file, or leave them out by drop_missing: true"
            )
    return [row for row, cells in enumerate(zip(*values.values(), strict=True)) if all(cells)]


def without_fillers(value: Any, feature: Any, kept: Collection[str] = ()) -> Any:
    """Return a value without the keys that it lacks, and for which a table of fixed keys holds None.

    Args:
        value: of a cell.
        feature: its type in `datasets`: a mapping where keys are fixed; JSON holds what was written.
        kept: keys of the outermost mappings that stay, whatever they hold.

    Example:
        >>> calls = [{"name": "now", "arguments": {"zone": None}}, {"name": None, "arguments": None}]
        >>> without_fillers(calls, [{"name": "string", "arguments": {"zone": "string"}}], kept=["name"])
        [{'name': 'now', 'arguments': {}}, {'name': None}]
    """
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return [without_fillers(item, inner, kept) for item in value]
    if not (isinstance(value, dict) and isinstance(feature, dict)):
        return value
    return {
        key: without_fillers(item, feature.get(key))
        for key, item in value.items()
        if item is not None or key in kept
    }


def _uncut(columns: Sequence[str]) -> str:
    """Return the end of a message about a file whose lines are cut at another sign; "" of any other file."""
    sign = next((sign for sign in ";\t|" if len(columns) == 1 and sign in columns[0]), None)
    told = f", whose one column is {columns[0]!r:.80}; set data.options: {{delimiter: {json.dumps(sign)}}}"
    return told if sign else ""


def _short(value: Any, kind: Any) -> Any:
    """Return a number, or a list of some, in the type of its column, of which `str` writes no more digits."""
    if isinstance(value, list):
        return [_short(item, kind) for item in value]
    return None if value is None or math.isnan(value) else kind(value)


def is_written(value: Any) -> bool:
    """Return whether a value has one spelling; of a list whether its first item has.

    Example:
        >>> is_written(1.5), is_written({"a": 1})
        (True, False)
    """
    return isinstance(next(iter(value), None) if isinstance(value, list) else value, _WRITTEN)


def as_text(value: Any, names: Sequence[str] | None = None) -> str:
    """Return a value as the user writes it; see `TableSplit.texts`.

    Args:
        value: of a cell.
        names: of the classes that it is a number of, if it is.

    Example:
        >>> as_text(True), as_text(1, ["no", "yes"]), as_text([1, None])
        ('true', 'yes', '1,')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return ",".join(as_text(item, names) for item in value)
    if names is not None:  # a ClassLabel column stores numbers, -1 for none
        return names[value] if value >= 0 else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
