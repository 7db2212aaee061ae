"""Rows of a labelled table through `datasets.load_dataset`: from the hub, or local CSV, JSON, Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saft.errors import UserError, did_you_mean
from saft.files.locations import resolve
from saft.tasks.examples import permutation

__all__ = ["TableConfig", "Rows", "read"]

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class TableConfig:
    """Where a labelled table is, and how it splits."""

    path: str
    """The first argument of datasets.load_dataset: a hub id, or csv, json, parquet, text for local files."""
    text: str | list[str]
    """The column that holds the text; of several columns, the texts are joined by a line break."""
    label: str
    """The column that holds the label."""
    files: dict[str, str] = field(default_factory=dict)
    """Split name -> file: a local path, or package://DISTRIBUTION/path/inside."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of datasets.load_dataset: name, delimiter, skiprows, revision ..."""
    train: str = "train"
    """The split that training and validation examples come from."""
    test: str | None = "test"
    """The split that test examples come from; null splits `test_fraction` off the training split."""
    test_fraction: float = 0.2
    """Share of the rows held out for the test, in (0, 1); read only where `test` is null."""
    validation_fraction: float = 0.1
    """Share of the training rows held out for validation, in (0, 1)."""
    split_seed: int = 0
    """Draws the held-out rows; the same for every arm and seed, so that all face the same test."""

    def __post_init__(self) -> None:
        for name in ("test_fraction", "validation_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie strictly between 0 and 1, but is {value}")


def read(config: TableConfig, labels: Sequence[str], drop_other_labels: bool, where: str) -> dict[str, Rows]:
    """Read a table and split it into train, validation and test rows.

    Args:
        config: where the table is; see `TableConfig`.
        labels: the labels of the task.
        drop_other_labels: leave out rows with any other label, instead of refusing them.
        where: the place in front of every message, for example "quickstart.yaml: tasks.reuters".

    Returns:
        {"train", "validation", "test"} -> list of (text, label), disjoint, in an order fixed by `split_seed`.

    Raises:
        UserError: a file, split, or column is missing, or a row has a label that is not in the list.
    """
    table = _load(config, where)
    rows = {name: _rows(table, split, config, where) for name, split in _wanted(config).items()}
    rows = {name: _checked(split, labels, drop_other_labels, where) for name, split in rows.items()}
    train = rows["train"]
    if config.test is None:
        rows["test"], train = _held_out(train, config.test_fraction, config.split_seed, stream=0)
    rows["validation"], rows["train"] = _held_out(
        train, config.validation_fraction, config.split_seed, stream=1
    )
    for name, split in rows.items():
        if not split:
            raise UserError(f"{where}.data: the {name} split is empty; no row has one of the task's labels")
    return rows


def _wanted(config: TableConfig) -> dict[str, str]:
    return {"train": config.train} | ({"test": config.test} if config.test is not None else {})


def _load(config: TableConfig, where: str) -> Mapping[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    files = {split: _file(file, f"{where}.data.files.{split}") for split, file in config.files.items()}
    try:
        if files:
            return datasets.load_dataset(config.path, data_files=files, **config.options)  # type: ignore[no-any-return]
        return datasets.load_dataset(config.path, **config.options)  # type: ignore[no-any-return]
    except Exception as error:  # whatever a reader raises about the user's files is the user's to mend
        cause = error.__cause__ or error
        first_line = (str(cause).strip() or type(cause).__name__).split("\n")[0]
        raise UserError(
            f"{where}.data: datasets.load_dataset cannot read '{config.path}': {first_line}"
        ) from None


def _file(location: str, where: str) -> str:
    path = resolve(location, where)
    if not path.is_file():  # what might be a hub id elsewhere is a missing file here
        raise UserError(f"{where}: there is no file '{location}' (looked for {path.absolute()})")
    return str(path)


def _rows(table: Mapping[str, Any], split: str, config: TableConfig, where: str) -> Rows:
    if split not in table:
        raise UserError(f"{where}.data: there is no split '{split}'{did_you_mean(split, table)}")
    rows = table[split]
    text_columns = [config.text] if isinstance(config.text, str) else config.text
    for key, column in [("text", name) for name in text_columns] + [("label", config.label)]:
        if column not in rows.column_names:
            raise UserError(
                f"{where}.data.{key}: there is no column '{column}' in the {split} split"
                + did_you_mean(column, rows.column_names)
            )
    labels = rows[config.label]
    names = getattr(rows.features[config.label], "names", None)
    if names is not None:  # a ClassLabel column stores numbers; users name labels by their names
        labels = [names[label] for label in labels]
    columns = [rows[name] for name in text_columns]
    texts = (
        "\n".join(str(part) for part in parts if part is not None) for parts in zip(*columns, strict=True)
    )
    return [(text, str(label)) for text, label in zip(texts, labels, strict=True)]


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
