from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from scipy.stats import spearmanr

from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.examples import IGNORED
from saft.tasks.language_model import LanguageModel
from saft.tasks.tokenizer import load_tokenizer

WORDS = {"label": {"red": "the rose", "blue": "sky", "green": "a moss"}}


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    return {
        "kind": "text_to_text",
        "data": data,
        "input": "of {text}",
        "target": "{label}",
        "words": WORDS,
        "max_length": 16,
        "max_target_length": 4,
    }


def bound(mapping: dict[str, Any], model: Path, **changes: Any) -> BoundTask:
    return tasks.build("colour", mapping | changes, "tasks").bind("colour", ModelConfig(str(model)), "t")


def test_inputs_and_answers_are_the_filled_templates(mapping: dict[str, Any], tiny_t5: Path) -> None:
    examples, tokenizer = (
        bound(mapping, tiny_t5).examples(Limits(4, 1, 1)).train,
        load_tokenizer(str(tiny_t5)),
    )
    batch = examples.collate([0, 1, 2, 3])
    answers = set()
    for at in range(4):
        ids, labels = batch.inputs["input_ids"][at], batch.labels[at]
        assert tokenizer.decode(ids[batch.inputs["attention_mask"][at] == 1]).startswith("of ")
        answers.add(tokenizer.decode(labels[labels != IGNORED]))
    assert answers <= {"the rose [END]", "sky [END]", "a moss [END]"}


def test_the_predictions_are_the_logits_at_every_token_of_the_answer(
    mapping: dict[str, Any], tiny_t5: Path
) -> None:
    task = bound(mapping, tiny_t5, metric_name="loss")
    batch, trunk = task.examples(Limits(8, 1, 1)).train.collate(list(range(8))), task.load_trunk()
    expected = task.model(trunk)(batch.inputs)[batch.labels != IGNORED]
    torch.testing.assert_close(task.predictions(trunk, batch.inputs), expected)


def test_the_loss_is_that_of_transformers(mapping: dict[str, Any], tiny_t5: Path) -> None:
    task = bound(mapping, tiny_t5, metric_name="loss")
    batch, model = task.examples(Limits(8, 1, 1)).train.collate(list(range(8))), task.model(task.load_trunk())
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    given = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(task.loss(model, batch), theirs(**given, labels=batch.labels).loss)


def learned(task: BoundTask, steps: int) -> LanguageModel:
    model, examples = task.model(task.load_trunk()), task.examples(Limits()).train
    assert isinstance(model, LanguageModel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for indices in examples.training_order(8, steps, seed=0):
        optimizer.zero_grad()
        task.loss(model, examples.collate(indices)).backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_exact_match_and_choice_against_one_example_at_a_time(mapping: dict[str, Any], tiny_t5: Path) -> None:
    task = bound(mapping, tiny_t5)
    model = learned(task, steps=25)
    trunk: Any = model.trunk.eval()
    examples, tokenizer = task.examples(Limits(0, None, 30)).test, load_tokenizer(str(tiny_t5))
    options = [tokenizer(f"{text} [END]")["input_ids"] for text in WORDS["label"].values()]
    matches = chosen = 0
    for index in range(len(examples)):
        batch = examples.collate([index])
        given = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        target = batch.labels[0].tolist()
        answer: list[int] = []
        with torch.no_grad():
            while len(answer) < 4 and answer[-1:] != [1]:
                logits = trunk(**given, decoder_input_ids=torch.tensor([[2, *answer]])).logits
                answer.append(int(logits[0, -1].argmax()))
            losses = [float(trunk(**given, labels=torch.tensor([o])).loss) * len(o) for o in options]
        matches += answer == target
        chosen += options[losses.index(min(losses))] == target
    assert matches > 0
    assert chosen != matches
    by_choice = bound(mapping, tiny_t5, metric_name="choice")
    to_choose = by_choice.examples(Limits(0, None, 30)).test
    for batch_size in (1, 7, 64):
        assert task.score(model, examples, batch_size).value == pytest.approx(matches / 30)
        assert by_choice.score(model, to_choose, batch_size).value == pytest.approx(chosen / 30)


def test_spearman_of_the_numbers_that_are_generated(
    mapping: dict[str, Any], tiny_t5: Path, tmp_path: Path
) -> None:
    file = tmp_path / "numbers.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "score"])
        writer.writerows(
            [f"{word} is near", at] for _ in range(20) for at, word in enumerate(("ant", "sky", "sea"))
        )
    data = {"path": "csv", "files": {"train": str(file)}, "test": None}
    task = bound(mapping, tiny_t5, data=data, target="{score}", words={}, metric_name="spearman")
    model, examples = learned(task, steps=15), task.examples(Limits()).test
    score = task.score(model, examples)
    trunk: Any = model.trunk.eval()
    tokenizer, told, right = load_tokenizer(str(tiny_t5)), [], []
    for index in range(len(examples)):
        batch = examples.collate([index])
        produced = trunk.generate(batch.inputs["input_ids"], max_new_tokens=4, do_sample=False)[0]
        word = tokenizer.decode(produced, skip_special_tokens=True).split()[:1]
        told.append(float(word[0]) if word and word[0].isdigit() else 0.0)
        right.append(float(tokenizer.decode(batch.labels[0, :1])))
    assert score.value == pytest.approx(spearmanr(told, right).statistic)
    assert score.value > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "of {}"}, "input: 'of {}': a field {} must hold the name of a column"),
        ({"target": "red"}, "target: 'red': has no {column} field"),
        (
            {"words": {}, "metric_name": "choice"},
            "target: '{label}': to choose among, it must hold one column",
        ),
        (
            {"words": {"label": {"red": "a", "blue": "a"}}, "metric_name": "choice"},
            "target: words.label: needs two different words or more",
        ),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        tasks.build("colour", mapping | changes, "tasks")
    assert message in str(caught.value)


def test_a_model_of_another_kind_is_told_which_kind_takes_it(
    mapping: dict[str, Any], tiny_model: Path, tiny_llama: Path
) -> None:
    with pytest.raises(
        UserError, match=r"t.kind: text_to_text needs an encoder-decoder, .* language_modeling"
    ):
        bound(mapping, tiny_llama)
    with pytest.raises(UserError, match=r"kind: text_classification takes it"):
        bound(mapping, tiny_model)


def test_an_answer_that_is_cut_is_compared_as_a_whole_and_told(
    mapping: dict[str, Any],
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("saft.progress._noted", set())
    task = bound(mapping, tiny_t5, max_target_length=1)
    examples, model = task.examples(Limits(0, None, 30)).test, task.model(task.load_trunk())
    assert isinstance(model, LanguageModel)
    notes = [line for line in capsys.readouterr().err.splitlines() if "t.max_target_length" in line]
    assert len(notes) == 2, "one of the training rows, which validation is of, and one of the test's"
    assert re.search(
        r"30 of 30 rows have more than 1 tokens and are cut, such as row \d+ of the test", notes[1]
    )
    batches = examples.batches(8)

    def cut_answers(*_: Any) -> list[list[int]]:
        return [[row[0]] for row in next(batches).labels.tolist()]

    monkeypatch.setattr("saft.tasks.bound_language_task.generate", cut_answers)
    part = examples.only(range(30))
    whole = [
        load_tokenizer(str(tiny_t5)).decode(part.whole[at], skip_special_tokens=True) for at in range(30)
    ]
    assert set(whole) == {"the rose", "sky", "a moss"}
    assert task.score(model, part, 8).value == pytest.approx(whole.count("sky") / 30)


def test_answers_to_choose_among_are_compared_whole(mapping: dict[str, Any], tiny_t5: Path) -> None:
    """Else what is cut would be the likelier for it."""
    words = {"label": {"red": "the rose the rose the rose", "blue": "the sky", "green": "the rose a moss"}}
    scores = []
    for longest in (2, 32):
        task = bound(mapping, tiny_t5, words=words, metric_name="choice", max_target_length=longest)
        examples = task.examples(Limits(0, None, None)).test
        assert [len(tokens) for tokens in examples.choices[0].tokens] == [7, 3, 5]
        scores.append(task.outcomes(task.model(task.load_trunk()), examples).rows[0].tolist())
    assert scores[0] == scores[1]


def test_an_answer_begins_as_it_was_learned_whatever_the_generation_config_says(
    mapping: dict[str, Any], tiny_t5: Path
) -> None:
    task = bound(mapping, tiny_t5)
    examples, model = task.examples(Limits(0, None, 1)).test, task.model(task.load_trunk())
    assert isinstance(model, LanguageModel)
    trunk: Any = model.trunk
    trunk.generation_config.decoder_start_token_id = None
    begun = []
    trunk.decoder.register_forward_pre_hook(
        lambda _, __, inputs: begun.append(inputs["input_ids"][0, 0].item()), with_kwargs=True
    )
    task.score(model, examples)
    assert begun[0] == 2 == examples.collate([0]).inputs["decoder_input_ids"][0, 0]


def test_answers_beyond_the_positions_are_refused(
    mapping: dict[str, Any], tiny_t5: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_t5))
    tokenizer.save_pretrained(tmp_path)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 12}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "decoder_start_token_id": 1}
    transformers.BartForConditionalGeneration(
        transformers.BartConfig(vocab_size=len(tokenizer), pad_token_id=2, **sizes, **heads)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^t.max_target_length: 13 is more than the 12 positions of .*; low"):
        bound(mapping, tmp_path, max_target_length=13)
    words = {"label": {"red": "the rose " * 6, "blue": "sky", "green": "a moss"}}
    with pytest.raises(UserError, match=r"t.target: row \d+ .* may have an answer of 13 tokens, but the mod"):
        bound(mapping, tmp_path, words=words, metric_name="choice").examples(Limits())
    words["label"]["red"] = "the " + "rose " * 10
    task = bound(mapping, tmp_path, words=words, metric_name="choice")
    model = task.model(task.load_trunk())
    assert task.score(model, task.examples(Limits(0, 4, None)).validation).examples == 4


def test_a_target_without_a_number_is_not_ranked(mapping: dict[str, Any]) -> None:
    declared = mapping | {"target": "{label}", "words": {}, "metric_name": "spearman"}
    with pytest.raises(
        UserError, match=r"^t.target: row \d+ of the train .* has '\w+', which holds no number"
    ):
        tasks.build("colour", declared, "t").rows("t")  # type: ignore[attr-defined]


def test_answers_of_which_the_tokenizer_knows_nothing_are_refused(
    mapping: dict[str, Any], tiny_t5: Path
) -> None:
    """Else any other such answer would equal them."""
    words = {"label": {"red": "scarlet", "blue": "azure", "green": "emerald"}}
    with pytest.raises(
        UserError, match=r"^t.target: row \d+ of .* has nothing to learn that the tokenizer of"
    ):
        bound(mapping, tiny_t5, words=words).examples(Limits())
    with pytest.raises(
        UserError, match=r"^t.target: the tokenizer of .* writes two of the answers to choose"
    ):
        bound(mapping, tiny_t5, words=words, metric_name="choice")
