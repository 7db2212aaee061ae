from __future__ import annotations

from typing import Any

import pytest

from saft.errors import UserError
from saft.tasks.labels import check_labels, divide_labelled, labelled_splits
from saft.tasks.table_source import TableSource
from saft.tasks.table_split import LabelledRow

SOURCE = TableSource("csv", validation_fraction=0.25)


def rows_of(labels: str, count: int = 8) -> list[LabelledRow[int, str]]:
    return [LabelledRow(at, labels[at % len(labels)], f"row {at + 1}") for at in range(count)]


def test_rows_with_other_labels_are_left_out_where_that_is_asked_for() -> None:
    rows = {"train": rows_of("abx", 12), "test": rows_of("abx", 6)}
    splits = labelled_splits(rows, SOURCE, ["a", "b"], drop_other_labels=True, where="tasks.t")
    assert {split: len(part) for split, part in splits.items()} == {"train": 6, "validation": 2, "test": 4}
    assert {label for part in splits.values() for _, label in part} == {"a", "b"}


def test_they_are_refused_otherwise_with_both_cures() -> None:
    with pytest.raises(
        UserError, match=r"tasks\.t\.labels: 1 label.*'x'; row 3 has 'x'; add them, or set drop_other_labels"
    ):
        labelled_splits(
            {"train": rows_of("abx")}, SOURCE, ["a", "b"], drop_other_labels=False, where="tasks.t"
        )


def test_of_many_other_labels_three_are_shown() -> None:
    with pytest.raises(UserError, match=r"4 label\(s\).*: 'b', 'c', 'd' \.\.\.;"):
        check_labels(zip("abcde", "12345", strict=True), ["a"], False, "t")


def test_a_label_without_a_row_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no row has the label 'sprot'.*sport"):
        check_labels([("sport", "row 1"), ("world", "row 2")], ["sprot", "world"], True, "t")


def test_a_number_that_the_list_spells_in_another_way_is_told() -> None:
    of_data = [("0.0", "row 1"), ("1.0", "row 2")]
    with pytest.raises(UserError, match=r"row 1 has '0\.0'; write '0' as the data do, '0\.0'; else add them"):
        check_labels(of_data, ["0", "1"], False, "t")
    with pytest.raises(UserError, match=r"row 1 has 'no'; add them"):
        check_labels([("no", "row 1")], ["0", "1"], False, "t")


@pytest.mark.parametrize(
    ("rows", "split"),
    [({"train": rows_of("a"), "test": []}, "test"), ({"train": [], "test": rows_of("a")}, "train")],
)
def test_an_empty_split_is_named(rows: dict[str, Any], split: str) -> None:
    with pytest.raises(UserError, match=f"t.data: the {split} split is empty"):
        divide_labelled(rows, SOURCE, "t")


def test_a_table_of_too_few_rows_is_told_from_one_without_labels() -> None:
    with pytest.raises(UserError, match=r"the validation split is empty; 1 row\(s\) are too few to hold"):
        divide_labelled({"train": rows_of("a", 1), "test": rows_of("a")}, SOURCE, "t")
