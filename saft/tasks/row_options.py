"""Answers to choose among that each row of a table has itself, and which of them is the right one."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.errors import UserError, did_you_mean
from saft.tasks.table_split import TableSplit, as_text, is_written

__all__ = ["OptionColumns", "RowOptions"]


@dataclass(frozen=True)
class RowOptions:
    """The options of every row of a split, and the right one of each.

    Args:
        options: of each row; empty where some are missing.
        right: number of the right one, from 0; None where the row does not say it.
    """

    options: list[list[str]]
    right: list[int | None]


@dataclass(frozen=True)
class OptionColumns:
    """Where a table has the options of each row.

    Args:
        options: a column of lists, or with dots what is in it: "choices.text"; or one column for each option.
        answer: the column that says which is right: by a label; without labels by its number, from 0, its
            letter or its text.
        labels: a column of lists like `options`, of the labels that `answer` may be; or these labels.
        blank: the column of sentences with a blank for an option.
    """

    options: str | list[str]
    answer: str
    labels: str | list[str] | None = None
    blank: str | None = None

    def columns(self, part: TableSplit) -> list[tuple[str, str]]:
        """Return the columns, each with the key that names it, as far as they are named without dots."""
        named = {"options": self.options, "answer": self.answer, "option_labels": self.labels}
        return [
            (key, _outer(part, column))
            for key, given in named.items()
            if given is not None and not (key == "option_labels" and isinstance(given, list))
            for column in ([given] if isinstance(given, str) else given)
        ]

    def read(self, part: TableSplit) -> RowOptions:
        """Read a split.

        Raises:
            UserError: a column is missing, or a row holds no options, or an answer that is none of them.
        """
        part.check_columns(self.columns(part))
        options, answers = self._options(part), self._answers(part)
        labels = self._labels(part, options)
        right = [
            _right(own, answer, names, part, row) if own and answer is not None else None
            for row, (own, answer, names) in enumerate(zip(options, answers, labels, strict=True))
        ]
        return RowOptions(options, right)

    def _answers(self, part: TableSplit) -> list[int | str | None]:
        """Return what the column of answers holds; of classes their names only where options have labels."""
        answers: list[Any] = part.texts("answer", self.answer)
        if self.labels is None:
            values = part.values(self.answer)
            answers = [
                value if isinstance(value, int) else text for value, text in zip(values, answers, strict=True)
            ]
        return [None if answer in ("", -1, "-1") else answer for answer in answers]

    def _options(self, part: TableSplit) -> list[list[str]]:
        if isinstance(self.options, str):
            return _lists(part, "options", self.options)
        columns = [part.texts("options", column) for column in self.options]
        return [list(cells) if all(map(str.strip, cells)) else [] for cells in zip(*columns, strict=True)]

    def _labels(self, part: TableSplit, options: Sequence[list[str]]) -> Sequence[list[str]] | Sequence[None]:
        if self.labels is None:
            return [None] * len(options)
        if isinstance(self.labels, list):
            labels = [self.labels] * len(options)
        else:
            labels = _lists(part, "option_labels", self.labels)
        for row, (own, names) in enumerate(zip(options, labels, strict=True)):
            if own and len(own) != len(names):
                raise UserError(
                    f"{part.where}.option_labels: {part.place(row)} has {len(own)} options, but {len(names)} "
                    "labels; fix the file, or leave option_labels out if `answer` counts them from 0"
                )
        return labels


def _outer(part: TableSplit, column: str) -> str:
    """Return the column that holds what is named with dots; a column may have dots in its own name."""
    return column if column in part.rows.column_names else column.partition(".")[0]


def _lists(part: TableSplit, key: str, column: str) -> list[list[str]]:
    """Return a column of lists as texts; [] where one is missing."""
    outer = _outer(part, column)
    inner = column.removeprefix(outer).split(".")[1:]
    lists = []
    for row, whole in enumerate(part.values(outer)):
        value = whole
        for name in inner:
            value = _inside(value, name, f"{part.where}.{key}: {part.place(row)}", outer)
        lists.append(_texts(value, part, row, key, column))
    return lists


def _inside(value: Any, name: str, told: str, column: str) -> Any:
    """Return what a mapping has under a name, or each of a list of mappings."""
    if isinstance(value, list):
        return [_inside(item, name, told, column) for item in value]
    if value is None or (isinstance(value, Mapping) and name in value):
        return value and value[name]
    known = did_you_mean(name, map(str, value)) if isinstance(value, Mapping) else ""
    raise UserError(f"{told} holds {value!r:.60} in column '{column}', without '{name}'{known}")


def _texts(value: Any, part: TableSplit, row: int, key: str, column: str) -> list[str]:
    told = f"{part.where}.{key}: {part.place(row)}"
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise UserError(
            f"{told} holds {value!r:.60} in '{column}', which is no list; name a column of lists, or for "
            "options one column for each: [COLUMN, COLUMN]"
        )
    for item in value:
        if not is_written(item):
            raise UserError(f"{told} holds {item!r:.60} in a list of '{column}', which is no text or number")
    texts = [as_text(item) for item in value]
    return texts if all(map(str.strip, texts)) else []


def _right(
    options: list[str], answer: int | str, labels: list[str] | None, part: TableSplit, row: int
) -> int:
    """Return the number of the right option."""
    told = f"{part.where}.answer: {part.place(row)} holds '{answer}'"
    if len(options) < 2:
        raise UserError(
            f"{part.where}.options: {part.place(row)} has only '{options[0]:.60}'; a choice needs two or "
            "more, so leave the row out of the file"
        )
    if labels is not None:
        if answer not in labels:
            raise UserError(f"{told}, which is none of its labels{did_you_mean(str(answer), labels)}")
        return labels.index(str(answer))
    places = [at for at, text in enumerate(options) if text == answer][:1]
    letters = list(string.ascii_uppercase[: len(options)])
    if str(answer).isdecimal() and int(answer) < len(options):
        places.append(int(answer))
    elif answer in letters:
        places.append(letters.index(str(answer)))
    if not places:
        raise UserError(
            f"{told}, which is neither a number from 0 to {len(options) - 1}, nor a letter from A to "
            f"{letters[-1]}, nor the text of an option; name the column of the options' labels under "
            "option_labels, or fix the file"
        )
    if options[places[0]] != options[places[-1]]:
        raise UserError(
            f"{told}, which is the text of one option and the place of another, '{options[places[-1]]:.40}'; "
            "name the options' labels under option_labels"
        )
    return places[0]
