"""Rows of a labelled table through `datasets.load_dataset`: from the hub, or local CSV, JSON, Parquet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saft import config
from saft.config import OpenFraction, Seed
from saft.errors import UserError, did_you_mean
from saft.files.locations import is_hub_id, resolve
from saft.tasks.examples import permutation

__all__ = ["Rows", "TableConfig", "data_files", "distrusted", "read"]

Rows = list[tuple[str, str]]


# What a checkpoint's saft.json may name: readers that run nothing, and options that neither fetch nor write.
SAFE_READERS = {"arrow", "csv", "json", "parquet", "text"}
UNSAFE_OPTIONS = {
    "cache_dir",
    "data_dir",
    "data_files",
    "download_config",
    "save_infos",
    "storage_options",
    "token",
}


@config.checked
@dataclass(frozen=True)
class TableConfig:
    """Where a labelled table is, and how it splits."""

    path: str
    """The first argument of datasets.load_dataset: a hub id, or csv, json, parquet, text for local files."""
    text: str | list[str]
    """The column that holds the text; of several columns, the texts are joined by a line break."""
    label: str
    """The column that holds the label: as CSV spells it; of others 1, 1.5, true, or the class's name."""
    files: dict[str, str] = field(default_factory=dict)
    """Split name -> file: a local path, or package://DISTRIBUTION/path/inside."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of datasets.load_dataset: name, delimiter, skiprows, revision ..."""
    train: str = "train"
    """The split that training and validation examples come from."""
    test: str | None = "test"
    """The split that test examples come from; null splits `test_fraction` off the training split."""
    test_fraction: OpenFraction = 0.2
    """Share of the rows held out for the test, in (0, 1); read only where `test` is null."""
    validation_fraction: OpenFraction = 0.1
    """Share of the training rows held out for validation, in (0, 1)."""
    split_seed: Seed = 0
    """Draws the held-out rows; the same for every arm and seed, so that all face the same test."""
    drop_missing: bool = False
    """Leave out rows without a text or a label, in CSV with an empty one, instead of refusing them."""


def distrusted(table: TableConfig) -> str | None:
    """Return what of a table a checkpoint folder must not ask for, as "key: reason"; None for nothing."""
    if table.path not in SAFE_READERS and not ("/" in table.path and is_hub_id(table.path)):
        return (
            f"path: '{table.path}' is not one of {', '.join(sorted(SAFE_READERS))}, nor OWNER/NAME of a hub"
        )
    if unsafe := sorted(UNSAFE_OPTIONS & table.options.keys()):
        return f"options.{unsafe[0]}: is not taken from a checkpoint folder"
    return None


def data_files(table: TableConfig, where: str) -> dict[str, Path]:
    """Return the local files of a table, by their location as it was written; a hub's are not listed.

    Raises:
        UserError: a file is missing.
    """
    return {file: _file(file, f"{where}.data.files.{split}") for split, file in table.files.items()}


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
    content = _load(table, where)
    rows = {name: _rows(content, split, table, where) for name, split in _wanted(table).items()}
    rows = {name: _checked(split, labels, drop_other_labels, where) for name, split in rows.items()}
    train = rows["train"]
    if table.test is None:
        rows["test"], train = _held_out(train, table.test_fraction, table.split_seed, stream=0)
    rows["validation"], rows["train"] = _held_out(
        train, table.validation_fraction, table.split_seed, stream=1
    )
    for name, split in rows.items():
        if not split:
            raise UserError(f"{where}.data: the {name} split is empty; no row has one of the task's labels")
    return rows


def _wanted(table: TableConfig) -> dict[str, str]:
    return {"train": table.train} | ({"test": table.test} if table.test is not None else {})


def _load(table: TableConfig, where: str) -> Mapping[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    files = {split: str(_file(file, f"{where}.data.files.{split}")) for split, file in table.files.items()}
    options = dict(table.options)
    try:
        if table.path == "csv":
            options |= _as_spelled(files, options)
        if files:
            return datasets.load_dataset(table.path, data_files=files, **options)  # type: ignore[no-any-return]
        return datasets.load_dataset(table.path, **options)  # type: ignore[no-any-return]
    except Exception as error:  # whatever a reader raises about the user's files is the user's to mend
        cause = error.__cause__ or error
        first_line = (str(cause).strip() or type(cause).__name__).split("\n")[0]
        raise UserError(
            f"{where}.data: datasets.load_dataset cannot read '{table.path}': {first_line}"
        ) from None


def _as_spelled(files: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which every field of CSV files is a text, as the file spells it.

    Else pandas takes NA, null, None for missing values, and 007, 1.50, TRUE for numbers and truth values.
    """
    import pandas

    taken = inspect.signature(pandas.read_csv).parameters
    header_only = {key: value for key, value in options.items() if key in taken} | {"nrows": 0}
    columns = [name for file in files.values() for name in pandas.read_csv(file, **header_only).columns]
    return {"converters": dict.fromkeys(columns, str), "keep_default_na": False}


def _file(location: str, where: str) -> Path:
    path = resolve(location, where)
    if not path.is_file():  # what might be a hub id elsewhere is a missing file here
        raise UserError(f"{where}: there is no file '{location}' (looked for {path.absolute()})")
    return path


def _texts(table: TableConfig) -> list[str]:
    return [table.text] if isinstance(table.text, str) else table.text


def _rows(content: Mapping[str, Any], split: str, table: TableConfig, where: str) -> Rows:
    if split not in content:
        raise UserError(f"{where}.data: there is no split '{split}'{did_you_mean(split, content)}")
    rows = content[split]
    for key, column in [("text", name) for name in _texts(table)] + [("label", table.label)]:
        if column not in rows.column_names:
            raise UserError(
                f"{where}.data.{key}: there is no column '{column}' in the {split} split"
                + did_you_mean(column, rows.column_names)
            )
    names = getattr(rows.features[table.label], "names", None)
    labels = [_label(value, names) for value in rows[table.label]]
    columns = [rows[name] for name in _texts(table)]
    texts = [
        "\n".join(str(part) for part in parts if part is not None) for parts in zip(*columns, strict=True)
    ]
    for key, values in (("text", texts), ("label", labels)):
        missing = [number for number, value in enumerate(values, start=1) if value == ""]
        if missing and not table.drop_missing:
            raise UserError(
                f"{where}.data.{key}: {len(missing)} row(s) of the {split} split have no {key}, the first is "
                f"row {missing[0]}; mend the file, or leave them out by drop_missing: true"
            )
    return [(text, label) for text, label in zip(texts, labels, strict=True) if text and label]


def _label(value: Any, names: Sequence[str] | None) -> str:
    """Return a label as the user writes it; an empty one where it is missing."""
    if value is None:
        return ""
    if names is not None:  # a ClassLabel column stores numbers, -1 for none
        return names[value] if value >= 0 else ""
    return str(value).lower() if isinstance(value, bool) else str(value)


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


def _held_out(rows: Rows, fraction: float, seed: int, stream: int) -> tuple[Rows, Rows]:
    """Split rows into a held-out share, at least one row, and the rest."""
    order = permutation(len(rows), seed, stream)
    count = min(max(1, round(len(rows) * fraction)), max(0, len(rows) - 1))
    return [rows[i] for i in order[:count]], [rows[i] for i in order[count:]]
