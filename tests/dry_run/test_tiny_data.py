from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from saft import tasks
from saft.dry_run.tiny_data import ROWS, table_of

LABELLED = {
    "kind": "text_classification",
    "data": {"text": "sentence1", "pair": "sentence2", "label": "label"},
}


def features(task: dict[str, Any], folder: Path) -> Any:
    table_of(task, seed=0, file=folder / "a.parquet")
    table = datasets.Dataset.from_parquet(str(folder / "a.parquet"), cache_dir=str(folder / "cache"))
    assert len(table) == ROWS
    return table.features


@pytest.mark.parametrize(
    ("labels", "more", "kind"),
    [
        ({"yes": "y", "no": "n"}, {}, datasets.ClassLabel(names=["yes", "no"])),
        ({"0": "a", "1": "b"}, {}, datasets.Value("int64")),
        ({"true": "t", "false": "f"}, {}, datasets.Value("bool")),
        ({"0": "a", "1": "b"}, {"numbered": True}, datasets.ClassLabel(names=["class 0", "class 1"])),
    ],
)
def test_labels_have_the_form_of_the_hub(
    labels: dict[str, str], more: dict[str, Any], kind: Any, tmp_path: Path
) -> None:
    task = LABELLED | {"labels": labels, "data": LABELLED["data"] | more}  # type: ignore[operator]
    found = features(task, tmp_path)
    assert found["label"] == kind
    assert {"sentence1", "sentence2"} <= set(found)


def test_images_templates_and_conversations_have_their_columns(tmp_path: Path) -> None:
    images = {"kind": "image_classification", "data": {"image": "jpg"}, "labels": {"a": "a", "b": "b"}}
    assert isinstance(features(images, tmp_path)["jpg"], datasets.Image)
    prompt = {"kind": "language_modeling", "data": {}, "prompt": "{question} ?", "completion": "{answer}"}
    assert set(features(prompt, tmp_path)) == {"question", "answer"}
    chat = {"kind": "language_modeling", "data": {}, "messages": "conversation"}
    assert set(features(chat, tmp_path)) == {"conversation"}


def test_a_text_may_be_of_several_columns(tmp_path: Path) -> None:
    task = {"kind": "text_regression", "data": {"text": ["title", "body"], "label": "score"}}
    assert set(features(task, tmp_path)) == {"title", "body", "score"}


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"options": "choices.text", "option_labels": "choices.label"}, {"choices"}),
        ({"options": "endings"}, {"endings"}),
        ({"options": ["sol1", "sol2"]}, {"sol1", "sol2"}),
        ({"options": ["option1", "option2"], "option_labels": ["1", "2"]}, {"option1", "option2"}),
        ({"options": "choices", "prompt": "{q} {options}", "completion": "{letter}"}, {"choices"}),
        (
            {"options": "choices", "blank": "s", "prompt": "{q} {before}{option}", "completion": "{after}"},
            {"choices", "s"},
        ),
    ],
)
def test_options_of_each_row_have_the_form_of_the_hub(
    options: dict[str, Any], columns: set[str], tmp_path: Path
) -> None:
    task = {
        "kind": "language_modeling",
        "data": {},
        "prompt": "{q}",
        "completion": " {option}",
        "answer": "key",
    }
    assert set(features(task | options, tmp_path)) == {"q", "key"} | columns
    data = {"path": "parquet", "files": {"train": str(tmp_path / "a.parquet")}, "test": None}
    rows = tasks.build("", task | options | {"data": data}, "t").rows("t")
    assert sum(map(len, rows.values())) == ROWS
