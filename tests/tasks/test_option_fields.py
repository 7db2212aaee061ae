from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.option_fields import around_blank, option_fields
from saft.tasks.tokenizer import load_tokenizer

WORDS = ["rose", "sky", "leaf", "the", "a", "of", "thing", "is", "very", "near", "big", "small"]
WINOGRANDE = {
    "options": ["option1", "option2"],
    "answer": "answer",
    "option_labels": ["1", "2"],
    "blank": "sentence",
}
TEMPLATES = {
    "language_modeling": ("prompt", "completion"),
    "text_to_text": ("input", "target"),
}


def declared(kind: str, first: str, then: str, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return a task of these rows, of which the test is of the last 24."""
    files = {"train": rows[:-24] or rows, "test": rows[-24:]}
    for split, some in files.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, some)))
    paths = {split: str(folder / f"{split}.jsonl") for split in files}
    keys = dict(zip(TEMPLATES[kind], (first, then), strict=True))
    return {"kind": kind, "data": {"path": "json", "files": paths}, "metric_name": "choice"} | keys


def sentences(count: int) -> list[dict[str, Any]]:
    """Return rows as WinoGrande has them; the options are of one or two words."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        before, after = (" ".join(draw.choices(WORDS, k=draw.randrange(2, 5))) for _ in range(2))
        one, two = draw.sample(["red", "blue", "a green", "red thing"], 2)
        rows.append(
            {"sentence": f"{before} _ {after}", "option1": one, "option2": two, "answer": draw.choice("12")}
        )
    return rows


def bound(given: dict[str, Any], model: Path) -> BoundTask:
    return tasks.build("colour", given, "tasks").bind("colour", ModelConfig(str(model)), "t")


def moved(task: BoundTask) -> Any:
    """Return the model with random weights, so that not every row has the same favourite."""
    model = task.model(task.load_trunk()).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def log_p(folder: Path, trunk: Any, given: str, follows: str) -> float:
    """Return log p of a text and its end after another, by a pass of transformers over the two alone."""
    tokenizer = load_tokenizer(str(folder))
    answer = tokenizer(f"{follows} [END]", add_special_tokens=False)["input_ids"]
    ids = tokenizer(given)["input_ids"]
    with torch.no_grad():
        if trunk.config.is_encoder_decoder:
            logits = trunk(torch.tensor([ids]), labels=torch.tensor([answer])).logits[0]
        else:
            logits = trunk(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_with_a_blank_what_follows_it_is_compared(
    kind: str, tiny_llama: Path, tiny_t5: Path, tmp_path: Path
) -> None:
    rows, folder = sentences(48), tiny_llama if kind == "language_modeling" else tiny_t5
    given = declared(kind, "{before}{option}", "{after}", rows, tmp_path)
    task = bound(given | WINOGRANDE, folder)
    model, examples = moved(task), task.examples(Limits()).test
    wanted = []
    for row in rows[-24:]:
        at = row["sentence"].index("_")
        first, second = (
            log_p(folder, model.trunk, row["sentence"][:at] + row[option], row["sentence"][at + 1 :])
            for option in ("option1", "option2")
        )
        wanted.append((row["answer"] == "1") == (first >= second))
    assert set(wanted) == {True, False}
    order = [index for batch in examples.order(64) for index in batch]
    assert task.outcomes(model, examples, 64).rows[0].tolist() == [wanted[index] for index in order]
    assert task.outcomes(model, examples, 5).score().value == sum(wanted) / 24


def test_an_option_and_what_follows_it_may_be_compared_too(tiny_llama: Path, tmp_path: Path) -> None:
    rows = sentences(48)
    given = declared("language_modeling", "{before}", "{option}{after}", rows, tmp_path)
    task = bound(given | WINOGRANDE, tiny_llama)
    model = moved(task)
    right = 0
    for row in rows[-24:]:
        at = row["sentence"].index("_")
        first, second = (
            log_p(tiny_llama, model.trunk, row["sentence"][:at], row[option] + row["sentence"][at + 1 :])
            for option in ("option1", "option2")
        )
        right += (row["answer"] == "1") == (first >= second)
    assert task.score(model, task.examples(Limits()).test).value == right / 24


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_the_letters_of_options_in_the_prompt_are_compared(
    kind: str, tiny_llama: Path, tiny_t5: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(48):
        own = draw.sample(["red", "blue", "a green", "red thing"], draw.randrange(2, 5))
        question = " ".join(draw.choices(WORDS, k=3))
        rows.append({"q": question, "choices": own, "answer": draw.randrange(len(own))})
    folder = tmp_path / "model"
    _with_letters(tiny_llama if kind == "language_modeling" else tiny_t5, folder)
    given = declared(kind, "{q}\n{options}\nof :", " {letter}", rows, tmp_path)
    task = bound(given | {"options": "choices", "answer": "answer"}, folder)
    model, examples = moved(task), task.examples(Limits()).test
    wanted = []
    for row in rows[-24:]:
        lines = [f"{letter}. {option}" for letter, option in zip("ABCD", row["choices"], strict=False)]
        prompt = "\n".join([row["q"], *lines, "of :"])
        scores = [log_p(folder, model.trunk, prompt, f" {letter}") for letter in "ABCD"[: len(lines)]]
        wanted.append(scores.index(max(scores)) == row["answer"])
    assert set(wanted) == {True, False}
    order = [index for batch in examples.order(64) for index in batch]
    assert task.outcomes(model, examples, 64).rows[0].tolist() == [wanted[index] for index in order]
    learned = {row["q"]: "ABCD"[row["answer"]] for row in rows}
    for row in task.task.rows("t")["train"]:  # type: ignore[attr-defined]
        texts = (row[1] if isinstance(row, tuple) else row).texts
        first, then = (texts[key] for key in TEMPLATES[kind])
        assert then == " " + learned[first.split("\n")[0]]


def _with_letters(folder: Path, into: Path) -> None:
    """Copy a model, with letters and numbered lines in place of words that are not needed."""
    import shutil

    shutil.copytree(folder, into)
    file = into / "tokenizer.json"
    told = json.loads(file.read_text())
    vocabulary = told["model"]["vocab"]
    new = ["A", "B", "C", "D", "A.", "B.", "C.", "D."]
    old = ["whale", "tower", "hill", "ant", "crumb", "dot", "moss", "grass"]
    for word, instead in zip(new, old, strict=True):
        vocabulary[word] = vocabulary.pop(instead)
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("no line", "t.blank: row 3 has no blank in 'no line'; write one _ where an option is to stand"),
        ("a _ and _ b", "t.blank: row 3 has 2 blanks in 'a _ and _ b'; write one _"),
    ],
)
def test_a_sentence_without_one_blank_is_named(sentence: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        around_blank(sentence, "t.blank: row 3")
    assert message in str(caught.value)


def test_a_longer_line_is_one_blank() -> None:
    assert around_blank("a ___ b", "t") == {"before": "a ", "after": " b"}


def test_more_options_than_letters_are_refused_where_letters_are_written() -> None:
    many = [str(number) for number in range(27)]
    assert option_fields(many, ["option"], "t")[26]["option"] == "26"
    for field in ("letter", "options"):
        with pytest.raises(UserError, match=r"^t.options: row 2 has 27 options, but there are 26 letters; "):
            option_fields(many, [field], "t.options: row 2")


def test_a_bad_row_is_named_before_training(tmp_path: Path) -> None:
    for sentence, message in (
        ("a line", "t.blank: row 3 of the train split of {} has no blank in 'a line'; write one _"),
        ("_ a _", "t.blank: row 3 of the train split of {} has 2 blanks in '_ a _'; write one _"),
        (
            "a _",
            "t.completion: 1 row(s) have no completion, the first is row 3 of the train split of {}; fix",
        ),
        ("", "t.blank.sentence: 1 row(s) have no sentence, the first is row 3 of the train split of {}; fix"),
    ):
        rows = sentences(30)
        rows[2]["sentence"] = sentence
        given = declared("language_modeling", "{before}{option}", "{after}", rows, tmp_path) | WINOGRANDE
        with pytest.raises(UserError) as caught:
            tasks.build("", given, "t").rows("t")  # type: ignore[attr-defined]
        assert message.format(tmp_path / "train.jsonl") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "{before}"}, "options: no template holds {option}; with `blank`, write one as"),
        (
            {"completion": "{option}"},
            "completion: '{option}': has no {after}, what is after the blank: with `blank`, the likelihood",
        ),
        ({"blank": None}, "prompt: '{before}{option}': is given before the completion, which alone may hold"),
        ({"options": None, "answer": None, "option_labels": None}, "blank: is read only with `options`"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = declared("language_modeling", "{before}{option}", "{after}", sentences(30), tmp_path)
    keys = {key: value for key, value in (given | WINOGRANDE | changes).items() if value is not None}
    with pytest.raises(UserError) as caught:
        tasks.build("", keys, "t")
    assert message in str(caught.value)


def test_a_column_that_is_absent_is_named(tmp_path: Path) -> None:
    given = declared("language_modeling", "{before}{option}", "{after}", sentences(30), tmp_path)
    for changes, message in (
        ({"blank": "sentenc"}, "t.blank: there is no column 'sentenc' in the train split"),
        ({"prompt": "{befor}{option}"}, "t.prompt: there is no column 'befor' in the train split"),
    ):
        with pytest.raises(UserError) as caught:
            tasks.build("", given | WINOGRANDE | changes, "t").rows("t")  # type: ignore[attr-defined]
        assert message in str(caught.value)


def test_inputs_that_are_cut_before_the_option_are_refused(tiny_t5: Path, tmp_path: Path) -> None:
    given = declared("text_to_text", "{before}{option}", "{after}", sentences(30), tmp_path) | WINOGRANDE
    with pytest.raises(UserError, match=r"t.max_length: 3 token\(s\) do not tell the options of row \d+ of"):
        bound(given | {"max_length": 3}, tiny_t5).examples(Limits())
