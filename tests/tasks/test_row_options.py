from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.row_options import OptionColumns
from saft.tasks.table_source import TableSource, load
from saft.tasks.table_split import TableSplit
from saft.tasks.tokenizer import load_tokenizer

COLOURS = ["red", "blue", "green", "a green", "red thing"]


def table(rows: list[dict[str, Any]], folder: Path, **more: Any) -> TableSplit:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    source = TableSource("json", files={"train": str(file)}, test=None, **more)
    return load(source, "t")["train"]


def right(columns: OptionColumns, part: TableSplit) -> list[str | None]:
    read = columns.read(part)
    return [None if at is None else own[at] for own, at in zip(read.options, read.right, strict=True)]


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (  # ARC
            OptionColumns("choices.text", "answerKey", "choices.label"),
            {"choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"},
            "y",
        ),
        (  # ARC and CommonsenseQA as their authors' files have them
            OptionColumns("question.choices.text", "answerKey", "question.choices.label"),
            {
                "question": {"choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
                "answerKey": "B",
            },
            "y",
        ),
        (OptionColumns("endings", "label"), {"endings": ["x", "y", "z"], "label": "2"}, "z"),  # HellaSwag
        (OptionColumns(["sol1", "sol2"], "label"), {"sol1": "x", "sol2": "y", "label": 1}, "y"),  # PIQA
        (  # WinoGrande
            OptionColumns(["option1", "option2"], "answer", ["1", "2"]),
            {"option1": "x", "option2": "y", "answer": "1"},
            "x",
        ),
        (OptionColumns("options", "answer"), {"options": ["x", "y", "z"], "answer": "C"}, "z"),
        (OptionColumns("options", "answer"), {"options": ["x", "y", "z"], "answer": "y"}, "y"),
        (OptionColumns("options", "answer"), {"options": [10, 20, 30], "answer": "30"}, "30"),
        (OptionColumns("options", "answer"), {"options": ["0", "1"], "answer": "1"}, "1"),
        (OptionColumns("a.b", "answer"), {"a.b": ["x", "y"], "answer": 0}, "x"),
    ],
)
def test_the_forms_of_published_tables(
    columns: OptionColumns, row: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert right(columns, table([row], tmp_path)) == [expected]


def test_the_number_of_a_class_counts_options_whatever_its_name(tmp_path: Path) -> None:
    kinds = {
        "choices": datasets.Sequence(datasets.Value("string")),
        "answer": datasets.ClassLabel(names=["D", "C"]),
    }
    rows = {"choices": [["x", "y"], ["x", "y"], ["x", "y"]], "answer": [0, 1, -1]}
    file = tmp_path / "mmlu.parquet"
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(file)
    part = load(TableSource("parquet", files={"train": str(file)}, test=None), "t")["train"]
    assert right(OptionColumns("choices", "answer"), part) == ["x", "y", None]


def test_rows_have_as_many_options_as_they_have(tmp_path: Path) -> None:
    rows = [{"o": COLOURS[:count], "a": count - 1} for count in (2, 5, 3)]
    read = OptionColumns("o", "a").read(table(rows, tmp_path))
    assert [len(own) for own in read.options] == [2, 5, 3]
    assert read.right == [1, 4, 2]


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (
            OptionColumns("o", "a"),
            {"o": ["x", "y"], "a": 2},
            "t.answer: row 1 of the train split of {} holds '2', which",
        ),
        (
            OptionColumns("o", "a"),
            {"o": ["x", "y"], "a": "E"},
            "nor a letter from A to B, nor the text of an option",
        ),
        (
            OptionColumns("o", "a"),
            {"o": ["1", "0"], "a": "0"},
            "text of one option and the place of another, '1'; name",
        ),
        (
            OptionColumns("o", "a"),
            {"o": ["x"], "a": 0},
            "t.options: row 1 of the train split of {} has only 'x'",
        ),
        (
            OptionColumns("o", "a", "l"),
            {"o": ["x", "y"], "l": ["A", "B"], "a": "C"},
            "none of its labels; choose from: A, B",
        ),
        (
            OptionColumns("o", "a", "l"),
            {"o": ["x", "y"], "l": ["A"], "a": "A"},
            "has 2 options, but 1 labels",
        ),
        (
            OptionColumns("o", "a"),
            {"o": "x,y", "a": 0},
            "holds 'x,y' in 'o', which is no list; name a column of lists",
        ),
        (OptionColumns("o.txt", "a"), {"o": {"text": ["x"]}, "a": 0}, "without 'txt'; did you mean 'text'?"),
        (
            OptionColumns("oo", "a"),
            {"o": ["x", "y"], "a": 0},
            "t.options: there is no column 'oo' in the train split",
        ),
        (
            OptionColumns("o", "b"),
            {"o": ["x", "y"], "a": 0},
            "t.answer: there is no column 'b' in the train split",
        ),
        (OptionColumns("o", "a", "b"), {"o": ["x", "y"], "a": 0}, "t.option_labels: there is no column 'b'"),
    ],
)
def test_a_bad_row_is_named(
    columns: OptionColumns, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    part = table([row], tmp_path)
    with pytest.raises(UserError) as caught:
        columns.read(part)
    assert message.format(part.origin) in str(caught.value)


def test_a_row_without_options_or_answer_is_told_or_left_out(tmp_path: Path) -> None:
    rows = [{"t": "x", "o": ["a", "b"], "a": "0"} for _ in range(8)]
    for bad in ({"o": None}, {"o": []}, {"o": ["a", ""]}, {"o": ["a", " "]}, {"a": "-1"}, {"a": ""}):
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, [*rows, rows[0] | bad])))
        key = next(iter({"o": "options", "a": "answer"}[key] for key in bad))
        declared = {
            "kind": "language_modeling",
            "data": {"path": "json", "files": {"train": str(file)}, "test": None},
            "prompt": "{t}",
            "completion": "{option}",
            "options": "o",
            "answer": "a",
        }
        with pytest.raises(
            UserError, match=rf"t.{key}: 1 row\(s\) have no {key}, the first is row 9 of the tra"
        ):
            tasks.build("", declared, "t").rows("t")
        declared["data"] = dict(declared["data"], drop_missing=True)  # type: ignore[call-overload]
        assert sum(map(len, tasks.build("", declared, "t").rows("t").values())) == 8


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """Return a task whose rows have two to five options, of one to two words."""
    given = tiny_tasks["colour"]["data"]
    rows = tasks.build("", tiny_tasks["colour"], "t").rows("t")
    files = {split: tmp_path / f"{split}.jsonl" for split in ("train", "test")}
    assert given["text"]
    for split, file in files.items():
        lines = [
            {"text": text, "of": {"text": (own := COLOURS[: 2 + at % 4])}, "right": at % len(own)}
            for at, (text, _) in enumerate(rows[split][:40])
        ]
        file.write_text("\n".join(map(json.dumps, lines)))
    return {
        "data": {"path": "json", "files": {split: str(file) for split, file in files.items()}},
        "options": "of.text",
        "answer": "right",
        "max_length": 32,
    }


def bound(mapping: dict[str, Any], model: Path, **changes: Any) -> BoundTask:
    return tasks.build("colour", mapping | changes, "tasks").bind("colour", ModelConfig(str(model)), "t")


@pytest.mark.parametrize("metric", ["choice", "choice_per_character"])
@pytest.mark.parametrize("kind", ["language_modeling", "text_to_text"])
def test_the_likeliest_option_is_that_of_a_plain_loop_of_transformers(
    kind: str, metric: str, mapping: dict[str, Any], tiny_llama: Path, tiny_t5: Path
) -> None:
    keys = {
        "language_modeling": {"prompt": "{text} :", "completion": " {option}"},
        "text_to_text": {"input": "of {text}", "target": "{option}"},
    }[kind]
    folder = tiny_llama if kind == "language_modeling" else tiny_t5
    task = bound(mapping, folder, kind=kind, metric_name=metric, **keys)
    model, tokenizer = task.model(task.load_trunk()).eval(), load_tokenizer(str(folder))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # so that not every row has the same favourite
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    examples = task.examples(Limits()).test
    trunk: Any = model.trunk
    wanted = {}
    for line in Path(mapping["data"]["files"]["test"]).read_text().splitlines():
        row = json.loads(line)
        scores = []
        for option in row["of"]["text"]:
            answer = tokenizer(f"{option} [END]", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                if kind == "language_modeling":
                    given = tokenizer(f"{row['text']} :", add_special_tokens=False)["input_ids"]
                    logits = trunk(torch.tensor([given + answer])).logits[0, len(given) - 1 : -1]
                else:
                    given = tokenizer(f"of {row['text']}")["input_ids"]
                    logits = trunk(torch.tensor([given]), labels=torch.tensor([answer])).logits[0]
            log_p = logits.log_softmax(-1)[range(len(answer)), answer].sum()
            scores.append(float(log_p) / (1 if metric == "choice" else len(option)))
        wanted[row["text"]] = scores.index(max(scores)) == row["right"]
    assert len({*wanted.values()}) == 2
    key = "prompt" if kind == "language_modeling" else "input"
    texts = [row.texts[key] for row in _test_rows(task)]
    order = [index for batch in examples.order(64) for index in batch]
    affix = {"prompt": (0, -2), "input": (3, None)}[key]
    expected = [wanted[texts[index][slice(*affix)]] for index in order]
    for batch_size in (1, 7, 64):
        told = task.outcomes(model, examples, batch_size)
        if batch_size == 64:
            assert told.rows[0].tolist() == expected
        assert told.score().value == pytest.approx(sum(expected) / len(expected))


def _test_rows(task: Any) -> list[Any]:
    rows = task.task.rows("t")["test"]
    return [row[1] if isinstance(row, tuple) else row for row in rows]


def test_what_is_learned_is_the_right_option(mapping: dict[str, Any], tiny_llama: Path) -> None:
    keys = {"kind": "language_modeling", "prompt": "{text} :", "completion": " {option}"}
    task = bound(mapping, tiny_llama, **keys)
    rows = task.task.rows("t")["train"]  # type: ignore[attr-defined]
    lines = Path(mapping["data"]["files"]["train"]).read_text().splitlines()
    known = {row["text"]: row["of"]["text"][row["right"]] for row in map(json.loads, lines)}
    for _, row in rows:
        assert row.texts["completion"] == " " + known[row.texts["prompt"].removesuffix(" :")]
        assert row.texts in row.options


def test_a_right_answer_that_is_cut_is_right_still(
    mapping: dict[str, Any], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first option is the likeliest, and the right one everywhere; max_length leaves a part of it."""
    keys = {
        "kind": "language_modeling",
        "prompt": "{text} :",
        "completion": " {option}",
        "metric_name": "choice",
    }
    lines = [json.loads(line) for line in Path(mapping["data"]["files"]["test"]).read_text().splitlines()]
    lines = [row | {"of": {"text": ["red red red red", "blue"]}, "right": 0} for row in lines]
    Path(mapping["data"]["files"]["test"]).write_text("\n".join(map(json.dumps, lines)))
    task = bound(mapping | {"max_length": 10}, tiny_llama, **keys)
    examples = task.examples(Limits()).test
    assert len(examples.whole) > 5
    monkeypatch.setattr(
        "saft.tasks.language_model._log_p",
        lambda _, pairs, *rest: torch.tensor([1.0, 0.0] * (len(pairs) // 2)),
    )
    assert task.score(task.model(task.load_trunk()), examples).value == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "answer: is missing: name the column that says which of `options` is right"),
        ({"options": None}, "answer: is read only with `options`"),
        ({"completion": "{right}"}, "completion: '{right}': has no {option} and no {letter}, for which"),
        (
            {"prompt": "{text} {option}"},
            "prompt: '{text} {option}': is given before the completion, which alone",
        ),
        ({"options": ["a"]}, "options: needs two different columns or more, or one column of lists"),
        ({"options": ["a", "b"], "option_labels": ["1"]}, "option_labels: are 1, but there are 2 options"),
        (
            {"prompt": None, "completion": None, "text": "{option}"},
            "options: need a completion that they fill",
        ),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    declared = (
        {"kind": "language_modeling", "prompt": "{text} :", "completion": " {option}"} | mapping | changes
    )
    with pytest.raises(UserError) as caught:
        tasks.build("colour", {key: value for key, value in declared.items() if value is not None}, "tasks")
    assert message in str(caught.value)
