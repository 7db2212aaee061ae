from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from saft.errors import UserError
from saft.tasks.table_source import TableSource
from saft.tasks.template import fields, read_templates, wordings


@pytest.fixture
def source(tmp_path: Path) -> TableSource:
    kinds = {"q": datasets.Value("string"), "a": datasets.ClassLabel(names=["no", "yes"])}
    rows = {"q": [f"is {n} even" for n in range(20)], "a": [1 - n % 2 for n in range(20)]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(tmp_path / "d.parquet")
    return TableSource("parquet", files={"train": str(tmp_path / "d.parquet")}, test=None)


def test_templates_are_filled_with_each_row_and_its_place(source: TableSource) -> None:
    templates = {"prompt": "{q}? {{yes or no}}", "completion": " {a}"}
    filled = read_templates(source, templates, {"a": {"yes": "yea", "no": "nay"}}, "t")
    assert {split: len(rows) for split, rows in filled.items()} == {"train": 14, "validation": 2, "test": 4}
    seen = {row.place: dict(row.texts) for rows in filled.values() for row in rows}
    assert seen[f"row 4 of the train split of {source.files['train']}"] == {
        "prompt": "is 3 even? {yes or no}",
        "completion": " nay",
    }
    assert len(seen) == 20


def test_braces_in_the_data_are_not_fields(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("code\n" + "x = {y}\n" * 6)
    filled = read_templates(
        TableSource("csv", files={"train": str(file)}, test=None), {"text": "{code}"}, {}, "t"
    )
    assert filled["train"][0].texts == {"text": "x = {y}"}


def test_a_missing_value_is_told_or_left_out(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("a,b\n" + "x,y\n" * 5 + ",y\n")
    files = {"train": str(file)}
    with pytest.raises(UserError, match=r"t.text.a: 1 row\(s\) have no a, the first is row 6 of the train"):
        read_templates(TableSource("csv", files=files, test=None), {"text": "{a} {b}"}, {}, "t")
    rest = TableSource("csv", files=files, test=None, drop_missing=True)
    assert sum(map(len, read_templates(rest, {"text": "{a} {b}"}, {}, "t").values())) == 5


@pytest.mark.parametrize("template", ["{a!r}", "{a:>3}", "{a.b}", "{a[0]}", "{}", "}", "none"])
def test_a_field_is_a_column_and_nothing_more(template: str) -> None:
    with pytest.raises(ValueError, match=r"field|brace|column"):
        fields(template)


def test_what_there_is_to_choose_among() -> None:
    words = {"label": {"0": "bad", "1": "good"}}
    assert wordings("It is {label}.", words) == ["It is bad.", "It is good."]
    for template in ("{text} {label}", "{text}"):
        with pytest.raises(ValueError, match="it must hold one column whose values are listed under `words`"):
            wordings(template, words)


def test_white_space_alone_is_a_missing_text(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("a,b\n" + "x,y\n" * 5 + '" ",y\n')
    files, templates = {"train": str(file)}, {"prompt": "{b}", "completion": " {a}"}
    with pytest.raises(
        UserError, match=r"t.completion: 1 row\(s\) have no completion, the first is row 6 of"
    ):
        read_templates(TableSource("csv", files=files, test=None), templates, {}, "t")
    rest = TableSource("csv", files=files, test=None, drop_missing=True)
    assert sum(map(len, read_templates(rest, templates, {}, "t").values())) == 5
    assert sum(map(len, read_templates(rest, {"text": "{a}{b}"}, {}, "t").values())) == 6
