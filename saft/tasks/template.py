"""Texts made of a table's columns: templates with {column} fields, and words in place of values."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.errors import UserError, did_you_mean
from saft.tasks.option_fields import around_blank, filled_in, option_fields
from saft.tasks.row_options import OptionColumns
from saft.tasks.table_source import TableSource, divide, load
from saft.tasks.table_split import TableSplit

__all__ = ["TemplateRow", "Words", "fields", "read_templates", "wordings"]

Words = Mapping[str, Mapping[str, str]]
"""Column -> value in the data -> its words."""


@dataclass(frozen=True)
class TemplateRow:
    """The templates of a task, filled with one row.

    Args:
        place: of the row, for messages: "row 17 of the train split of a.csv".
        texts: template's key -> text.
        options: the same with each option, of a row that has options of its own; `texts` with the right one.
    """

    place: str
    texts: Mapping[str, str]
    options: tuple[Mapping[str, str], ...] = ()


def fields(template: str) -> list[str]:
    """Return the columns that a template names, in order.

    Args:
        template: with {column} fields; {{ and }} are braces.

    Raises:
        ValueError: it names none, or a brace is not closed, or a field is more than a column's name.

    Example:
        >>> fields("{premise} Is it true that {hypothesis}?")
        ['premise', 'hypothesis']
        >>> fields("a {}")
        Traceback (most recent call last):
        ValueError: 'a {}': a field {} must hold the name of a column
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}; write {{{{ and }}}} for braces") from None
    columns = []
    for _, column, specification, conversion in parts:
        if column is None:
            continue
        if not column or specification or conversion or any(sign in column for sign in ".[]"):
            written = f"{{{column}{':' if specification else ''}{specification or ''}}}"
            raise ValueError(f"{template!r}: a field {written} must hold the name of a column")
        columns.append(column)
    if not columns:
        raise ValueError(f"{template!r}: has no {{column}} field, so it is the same for every row")
    return list(dict.fromkeys(columns))


def wordings(template: str, words: Words) -> list[str]:
    """Return every text that a template can be, where it holds one column, whose values have words.

    Raises:
        ValueError: it holds other columns, or two values have the same words.

    Example:
        >>> wordings(" {label}.", {"label": {"0": "no", "1": "yes"}})
        [' no.', ' yes.']
    """
    columns = fields(template)
    if len(columns) != 1 or columns[0] not in words:
        raise ValueError(
            f"{template!r}: to choose among, it must hold one column whose values are listed under `words`"
        )
    texts = [template.format_map({columns[0]: word}) for word in words[columns[0]].values()]
    if len(set(texts)) < len(texts) or len(texts) < 2:
        raise ValueError(f"words.{columns[0]}: needs two different words or more, each for one value")
    return texts


def read_templates(
    source: TableSource,
    templates: Mapping[str, str],
    words: Words,
    where: str,
    options: OptionColumns | None = None,
) -> dict[str, list[TemplateRow]]:
    """Read a table and fill templates with its rows.

    Args:
        source: the table.
        templates: key of the config -> template.
        words: what stands in a text in place of a column's value.
        where: the place in front of every message.
        options: where each row has answers to choose among; the templates may hold the fields of
            `option_fields`, filled in for the right one.

    Returns:
        {"train", "validation", "test"} -> filled rows, disjoint, in an order fixed by `split_seed`.

    Raises:
        UserError: a file, split or column is missing, a value has no words, or a row has no options, no
            blank, or nothing that fills a template.
    """
    columns = {column: key for key, template in templates.items() for column in fields(template)}
    if options is not None:
        columns = _read_columns(columns, options)
    for column in words:
        if column not in columns:
            raise UserError(
                f"{where}.words: no template holds {{{column}}}{did_you_mean(column, list(columns))}"
            )
    rows = {
        split: _filled(part, columns, templates, words, options)
        for split, part in load(source, where).items()
    }
    return divide(rows, source, where)


def _filled(
    part: TableSplit,
    columns: Mapping[str, str],
    templates: Mapping[str, str],
    words: Words,
    options: OptionColumns | None,
) -> list[TemplateRow]:
    part.check_columns([(key, column) for column, key in columns.items()])
    values = {column: part.texts(key, column) for column, key in columns.items()}
    needed: dict[str, Sequence[Any]] = {f"{key}.{column}": values[column] for column, key in columns.items()}
    choices = None if options is None else options.read(part)
    if choices is not None:
        right = ["" if at is None else str(at) for at in choices.right]
        needed |= {"options": choices.options, "answer": right}
    rows = part.present(needed)
    in_templates = {field for template in templates.values() for field in fields(template)}
    for column, known in words.items():
        values[column] = _in_words(values[column], rows, column, known, part)
    filled = dict[int, TemplateRow]()
    for row in rows:
        of_row = {column: cells[row] for column, cells in values.items()}
        if choices is None:
            filled[row] = TemplateRow(part.place(row), _texts(templates, of_row))
            continue
        if options is not None and options.blank is not None:
            of_row |= around_blank(of_row[options.blank], f"{part.where}.blank: {part.place(row)}")
        place = f"{part.where}.options: {part.place(row)}"
        each = option_fields(choices.options[row], in_templates, place)
        own = tuple(_texts(templates, of_row | of_option) for of_option in each)
        filled[row] = TemplateRow(part.place(row), own[choices.right[row] or 0], own)
    # White space alone is no text; a row that lacks a value has been told, or is left out already.
    texts = {
        key: [filled[row].texts[key].strip() if row in filled else key for row in range(len(part.rows))]
        for key in templates
    }
    return [filled[row] for row in part.present(texts) if row in filled]


def _read_columns(columns: Mapping[str, str], options: OptionColumns) -> dict[str, str]:
    """Return the columns that are read: not what stands for an option, but what has the blank."""
    made = filled_in(options.blank)
    read = {} if options.blank is None else {options.blank: "blank"}
    return read | {column: key for column, key in columns.items() if column not in made}


def _texts(templates: Mapping[str, str], of_row: Mapping[str, str]) -> dict[str, str]:
    return {key: template.format_map(of_row) for key, template in templates.items()}


def _in_words(
    values: Sequence[str], rows: Sequence[int], column: str, known: Mapping[str, str], part: TableSplit
) -> list[str]:
    unknown = next((row for row in rows if values[row] not in known), None)
    if unknown is not None:
        raise UserError(
            f"{part.where}.words.{column}: {part.place(unknown)} holds '{values[unknown]}', which has no "
            f"words{did_you_mean(values[unknown], list(known))}; add it to words.{column}"
        )
    return [known.get(value, "") for value in values]
