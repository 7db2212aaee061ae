from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from saft import config
from saft.errors import UserError
from saft.tasks.table import TableConfig, read
from saft.tasks.table_split import TableSplit

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
        files={"train": str(file), "test": str(shutil.copy(file, tmp_path / "test.tab"))},
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
        ({"options": {"delimitr": ";"}}, r"t.data: datasets.load_dataset cannot read 'csv' \(train: "),
    ],
)
def test_mistakes_are_named(table: TableConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(dataclasses.replace(table, **changes), LABELS, False, "t")


def test_labels_must_match(table: TableConfig) -> None:
    with pytest.raises(
        UserError,
        match=r"t.labels: 1 label\(s\) of the data are not in the list: 'green'; row \d+ of the train",
    ):
        read(table, ["red", "blue"], False, "t")
    with pytest.raises(UserError, match=r"t.labels: no row has the label 'gren'; did you mean 'green'"):
        read(table, ["red", "blue", "gren"], True, "t")
    kept = read(table, ["red", "blue"], True, "t")
    assert {label for split in kept.values() for _, label in split} == {"red", "blue"}


@pytest.mark.parametrize("name", ["test_fraction", "validation_fraction"])
def test_fractions_are_checked(table: TableConfig, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: must be in \(0, 1\), but is 10"):
        dataclasses.replace(table, **{name: 10})


def test_no_row_is_both_learned_and_tested(table: TableConfig) -> None:
    with pytest.raises(UserError, match=r"test: 'train' is the split that is learned; set test: null, and"):
        dataclasses.replace(table, test="train")
    same = dict.fromkeys(("train", "test"), table.files["train"])
    with pytest.raises(
        UserError, match=r"files.test: is learned, as files.train; leave it out, set test: null"
    ):
        dataclasses.replace(table, files=same)
    assert dataclasses.replace(table, files=same, test=None).test is None


def test_a_part_of_a_split_is_the_training_split(table: TableConfig) -> None:
    half = dataclasses.replace(table, options={"split": "train[:50%]"}, test=None)
    assert sum(map(len, read(half, LABELS, False, "t").values())) == 60


def test_a_file_that_changes_without_a_new_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    table = TableConfig(path="csv", files={"train": str(file)}, test=None, text="text", label="label")
    for word in ("one", "two"):
        file.write_text("text,label\n" + f"{word},red\n" * 9)
        os.utime(file, (1e9, 1e9))
        assert {text for text, _ in read(table, ["red"], False, "t")["train"]} == {word}


@pytest.mark.parametrize("name", ["validation", "dev"])
def test_a_file_for_validation_is_not_left_unread_in_silence(table: TableConfig, name: str) -> None:
    files = {"train": table.files["train"], name: table.files["test"]}
    with pytest.raises(UserError, match=rf"files\.{name}: nothing would be read of it.*validation_fraction"):
        dataclasses.replace(table, files=files, test=None)
    assert dataclasses.replace(table, files=files, test=name).test == name


@pytest.mark.parametrize("splits", [True, False])
def test_what_datasets_has_saved_to_disk_is_read_as_it_is_there(splits: bool, tmp_path: Path) -> None:
    content = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": ["red", "blue"] * 4})
    saved = datasets.DatasetDict({"train": content, "test": content}) if splits else content
    saved.save_to_disk(tmp_path / "saved")
    table = TableConfig(str(tmp_path / "saved"), "text", "label", test="test" if splits else None)
    rows = read(table, ["red", "blue"], False, "t")
    assert sum(map(len, rows.values())) == (16 if splits else 8)
    own = table.local_files("t")  # whose change is noticed when a run goes on
    assert own.keys() == {f"{table.path}/{file.relative_to(table.path)}" for file in own.values()}
    assert len(own) == (2 if splits else 1)


def of_csv(folder: Path, text: str, **options: Any) -> TableConfig:
    (folder / "data.csv").write_text(text)
    files = {"train": str(folder / "data.csv")}
    return TableConfig("csv", "text", "label", files=files, test=None, **options)


@pytest.mark.parametrize("path", ["csv", "json"])
@pytest.mark.parametrize("content", ["", "\n", " \n\n"])
def test_an_empty_file_is_named(tmp_path: Path, path: str, content: str) -> None:
    table = dataclasses.replace(of_csv(tmp_path, content), path=path)
    with pytest.raises(UserError, match=r"^t\.data\.files\.train: '.*data\.csv' is empty$"):
        read(table, LABELS, False, "t")


def all_rows(table: TableConfig, labels: list[str], drop_other_labels: bool = False) -> list[tuple[str, str]]:
    return sorted(row for split in read(table, labels, drop_other_labels, "t").values() for row in split)


def test_texts_that_look_like_missing_ones_are_texts(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan", "N/A", "007", "1.50", "TRUE", "good"]
    table = of_csv(
        tmp_path, "text,label\n" + "".join(f"{word},{label}\n" for word in words for label in "ab")
    )
    assert {text for text, _ in all_rows(table, ["a", "b"])} == set(words)


@pytest.mark.parametrize(
    "labels", [["1", "5"], ["1.50", "2.00"], ["true", "FALSE"], ["N/A", "None"], ["01", "1"]]
)
def test_labels_of_csv_are_what_the_file_says(tmp_path: Path, labels: list[str]) -> None:
    table = of_csv(
        tmp_path, "text,label\n" + "".join(f"t{i},{label}\n" for i in range(8) for label in labels)
    )
    assert {label for _, label in all_rows(table, labels)} == set(labels)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 5], ["1", "5"]),
        ([True, False], ["true", "false"]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        (["null", "x"], ["null", "x"]),
    ],
)
def test_labels_of_json_have_one_spelling(tmp_path: Path, values: list[Any], labels: list[str]) -> None:
    rows = [{"text": f"t{i}", "label": value} for i in range(8) for value in values]
    (tmp_path / "data.json").write_text("\n".join(json.dumps(row) for row in rows))
    files = {"train": str(tmp_path / "data.json")}
    table = TableConfig("json", "text", "label", files=files, test=None)
    assert {label for _, label in all_rows(table, labels)} == set(labels)


def test_a_missing_value_is_told_and_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    text = "text,label\n" + "a,x\n,x\nb,\nc,y\n" * 4
    with pytest.raises(
        UserError,
        match=r"t.data.text: 4 row\(s\) have no text, the first is row 2 of the train split of .*\.csv;",
    ):
        all_rows(of_csv(tmp_path, text), ["x", "y"])
    rows = all_rows(of_csv(tmp_path, text, drop_missing=True), ["x", "y"])
    assert set(rows) == {("a", "x"), ("c", "y")}
    (tmp_path / "data.json").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n' * 4)
    table = TableConfig("json", "text", "label", files={"train": str(tmp_path / "data.json")}, test=None)
    with pytest.raises(UserError, match=r"t.data.label: 4 row\(s\) have no label"):
        all_rows(table, ["x", "None"])


@pytest.mark.parametrize(("key", "row"), [("text", '" ",b,x'), ("pair", 'a,"\t ",x')])
def test_white_space_alone_is_no_text(key: str, row: str, tmp_path: Path) -> None:
    text = "text,pair,label\n" + "a,b,x\nc,d,y\n" * 4 + row + "\n"
    with pytest.raises(UserError, match=rf"t.data.{key}: 1 row\(s\) have no {key}, the first is row 9 of"):
        read(of_csv(tmp_path, text, pair="pair"), ["x", "y"], False, "t")
    rest = read(of_csv(tmp_path, text, pair="pair", drop_missing=True), ["x", "y"], False, "t")
    assert sum(map(len, rest.values())) == 8


def test_an_unlabelled_row_of_a_hub_split_is_missing_and_not_the_last_class(tmp_path: Path) -> None:
    """Test splits of the hub often have the label -1."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    made = datasets.Dataset.from_dict(
        {"text": list("abcdefgh"), "label": [0, 1] * 3 + [-1, 1]}, features=features
    )
    made.to_parquet(tmp_path / "data.parquet")
    files = {"train": str(tmp_path / "data.parquet")}
    table = TableConfig("parquet", "text", "label", files=files, test=None)
    with pytest.raises(UserError, match=r"1 row\(s\) have no label, the first is row 7 of the train"):
        all_rows(table, ["x", "y"])
    dropped = dataclasses.replace(table, drop_missing=True)
    assert [label for _, label in all_rows(dropped, ["x", "y"])] == ["x", "y"] * 3 + ["y"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"path": "pandas"},
            "path: 'pandas' is not one of arrow, csv, json, parquet, text, nor OWNER/NAME of a hub",
        ),
        (
            {"options": {"cache_dir": "/elsewhere"}},
            "options.cache_dir: is not taken from a checkpoint folder",
        ),
        ({}, None),
        ({"path": "owner/data"}, None),
    ],
)
def test_what_a_checkpoint_must_not_ask_for(
    table: TableConfig, changes: dict[str, Any], problem: str | None
) -> None:
    assert dataclasses.replace(table, **changes).distrusted() == problem


def test_numbers_of_single_precision_are_written_as_short_as_they_are(tmp_path: Path) -> None:
    numbers = [3.8, 0.1, 5.0, 2.6]
    features = datasets.Features({"text": datasets.Value("string"), "score": datasets.Value("float32")})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "score": numbers}, features=features)
    part = TableSplit(rows, "train", "a.parquet", False, "t")
    assert part.texts("data.text", "score") == ["3.8", "0.1", "5.0", "2.6"]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("json", b'{"text": "a", "label"\n', "JSON parse error"),
        ("csv", b'text,label\na,b\n"a,b\n', "EOF inside string starting at row 2"),
        ("csv", b"text,label\nca\xe9f,b\n", r"codec can't decode byte.*options, as \{encoding: latin-1\}"),
        ("csv", "text,label\na,b\n".encode("utf-16"), r"codec can't .*options, as \{encoding: utf-16\}"),
        (
            "csv",
            b"text;label\na;b\n",
            r"no column 'text' in the train split, whose one column is 'text;label'; "
            r'set data\.options: \{delimiter: ";"\}',
        ),
        (
            "json",
            b'{"text": "a", "label": "b"}\n\n{"text": \n{"text": "c"}\n',
            r"line 3 of .*data is not JSON: Expecting value; fix it, or leave it out",
        ),
        ("json", b'{"text": "a"}\n3\n', r"line 2 of .*data is no mapping, \{COLUMN: VALUE\}; fix it"),
        ("csv", b"text,label\n", r"cannot read 'csv' \(train: .*data\): it holds no rows"),
        ("csv", b"text\tlabel\na\tb\n", r'set data\.options: \{delimiter: "\\t"\}'),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line_with_the_cure(
    kind: str,
    content: bytes,
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    file = tmp_path / "data"
    file.write_bytes(content)
    given = TableConfig(kind, "text", "label", files={"train": str(file)}, test=None)
    with pytest.raises(UserError, match=message) as caught:
        read(given, LABELS, False, "t")
    assert "\n" not in str(caught.value)
    assert not caplog.records  # of `datasets`, which says the same
