from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.tasks.table import TableConfig, read

LABELS = ["red", "blue", "green"]


@pytest.fixture
def table(tiny_tasks: dict[str, dict[str, Any]]) -> TableConfig:
    return config.parse(TableConfig, tiny_tasks["colour"]["data"], "test")


def test_splits_are_disjoint_and_complete(table: TableConfig) -> None:
    rows = read(table, LABELS, False, "t")
    assert {name: len(split) for name, split in rows.items()} == {"train": 108, "test": 60, "validation": 12}
    held_out = dataclasses.replace(table, test=None, test_fraction=0.25)
    rows = read(held_out, LABELS, False, "t")
    assert {name: len(split) for name, split in rows.items()} == {"train": 81, "test": 30, "validation": 9}
    together = sorted(row for split in rows.values() for row in split)
    whole = read(table, LABELS, False, "t")
    assert together == sorted(whole["train"] + whole["validation"])


def test_the_split_follows_its_seed(table: TableConfig) -> None:
    first, again = (read(table, LABELS, False, "t")["validation"] for _ in range(2))
    other = read(dataclasses.replace(table, split_seed=1), LABELS, False, "t")["validation"]
    assert first == again
    assert first != other


def test_extra_header_rows_and_joined_columns(tmp_path: Path) -> None:
    file = tmp_path / "orange.tab"
    file.write_text(
        'Category\tTitle\tText\nd\tstring\tstring\nclass\t\t\na\tone\t"two ""quoted"""\nb\tthree\tfour\n'
    )
    table = TableConfig(
        path="csv",
        files={"train": str(file), "test": str(file)},
        options={"delimiter": "\t", "skiprows": [1, 2]},
        text=["Title", "Text"],
        label="Category",
    )
    rows = read(table, ["a", "b"], False, "t")
    assert sorted(rows["test"]) == [('one\ntwo "quoted"', "a"), ("three\nfour", "b")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "txt"}, r"t.data.text: there is no column 'txt' in the train split; did you mean 'text'\?"),
        (
            {"label": "labl"},
            r"t.data.label: there is no column 'labl' in the train split; did you mean 'label'",
        ),
        ({"train": "trian"}, r"t.data: there is no split 'trian'; did you mean 'train'"),
        (
            {"files": {"train": "nowhere.csv"}, "test": None},
            r"t.data.files.train: there is no file 'nowhere.csv'",
        ),
        ({"path": "cvs"}, r"t.data: datasets.load_dataset cannot read 'cvs'"),
        ({"options": {"delimitr": ";"}}, r"t.data: datasets.load_dataset cannot read 'csv'"),
    ],
)
def test_mistakes_are_named(table: TableConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(dataclasses.replace(table, **changes), LABELS, False, "t")


def test_labels_must_match(table: TableConfig) -> None:
    with pytest.raises(UserError, match=r"t.labels: 1 label\(s\) of the data are not in the list: 'green'"):
        read(table, ["red", "blue"], False, "t")
    with pytest.raises(UserError, match=r"t.labels: no row has the label 'gren'; did you mean 'green'"):
        read(table, ["red", "blue", "gren"], True, "t")
    kept = read(table, ["red", "blue"], True, "t")
    assert {label for split in kept.values() for _, label in split} == {"red", "blue"}


@pytest.mark.parametrize("name", ["test_fraction", "validation_fraction"])
def test_fractions_are_checked(table: TableConfig, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie strictly between 0 and 1"):
        dataclasses.replace(table, **{name: 10})
