"""What a split of a table tells of its rows: one mechanism for every kind of task."""

from __future__ import annotations

import copy
from typing import Any

import datasets
import pytest

from saft.errors import UserError
from saft.tasks.table_split import LabelledRow, TableSplit


def split(values: list[Any], drop_missing: bool = False) -> TableSplit:
    return TableSplit(datasets.Dataset.from_dict({"a": values}), "test", "mail.csv", drop_missing, "t")


def test_a_row_is_a_pair_that_knows_its_place() -> None:
    row = LabelledRow("text", "spam", "row 1")
    text, label = row
    assert (text, label) == row == ("text", "spam")
    assert copy.deepcopy(row).place == "row 1"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["x", None], ["x", ""]),
        ([1, None], ["1", ""]),
        ([True, False], ["true", "false"]),
        ([["x", "y"], []], ["x,y", ""]),
        ([1.5, float("nan")], ["1.5", ""]),
    ],
)
def test_values_are_texts_as_the_user_writes_them(values: list[Any], texts: list[str]) -> None:
    assert split(values).texts("text", "a") == texts


def test_numbers_of_single_precision_are_short_and_not_a_number_is_missing() -> None:
    for values, texts in (
        ([3.8, float("nan"), None], ["3.8", "", ""]),
        ([[3.8, float("nan")], None, []], ["3.8,", "", ""]),
    ):
        kind: Any = datasets.Value("float32")
        kind = datasets.Sequence(kind) if isinstance(values[0], list) else kind
        rows = datasets.Dataset.from_dict({"a": values}, features=datasets.Features({"a": kind}))
        assert TableSplit(rows, "test", "a.parquet", False, "t").texts("text", "a") == texts


@pytest.mark.parametrize("value", [{"z": 1}, [{"z": 1}], b"bytes"])
def test_what_is_neither_text_nor_number_is_refused(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        split([None, value]).texts("data.text", "a")
    assert str(caught.value) == (
        f"t.data.text: row 2 of the test split of mail.csv holds {value} in column 'a', which is neither text nor "
        "number; write what is meant into a column of its own"
    )


def test_a_missing_value_is_told_with_its_row_and_file_or_left_out() -> None:
    with pytest.raises(UserError) as caught:
        split([]).present({"data.text": ["x", "", ""]})
    assert str(caught.value) == (
        "t.data.text: 2 row(s) have no text, the first is row 2 of the test split of mail.csv; fix the file, or "
        "leave them out by drop_missing: true"
    )
    assert split([], drop_missing=True).present({"data.text": ["x", "", "z"]}) == [0, 2]


def test_a_column_that_is_not_there_suggests_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"^t\.text: there is no column 'A' in the given split; did you mean 'a'\?"
    ):
        split(["x"]).check_columns([("text", "A")])
