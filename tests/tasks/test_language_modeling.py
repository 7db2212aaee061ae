from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from torch.nn import functional

from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.conversation import segments
from saft.tasks.examples import IGNORED, text_mask
from saft.tasks.language_model import LanguageModel
from saft.tasks.tokenizer import load_tokenizer


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    return {
        "kind": "language_modeling",
        "data": data,
        "prompt": "{text} :",
        "completion": "{label}",
        "max_length": 32,
    }


def bound(mapping: dict[str, Any], model: Path, **changes: Any) -> BoundTask:
    declared = {key: value for key, value in (mapping | changes).items() if value is not None}
    return tasks.build("colour", declared, "tasks").bind("colour", ModelConfig(str(model)), "t")


def words(folder: Path, ids: torch.Tensor) -> str:
    text: str = load_tokenizer(str(folder)).decode(ids)
    return text


def rows(folder: Path, batch: tasks.Batch) -> list[tuple[str, str]]:
    """Return each text, and what is learned of it."""
    found = []
    for at in range(len(batch)):
        ids = batch.inputs["input_ids"][at]
        ids = ids[ids != 2]  # padding
        labels = batch.labels[at]
        found.append((words(folder, ids), words(folder, labels[labels != IGNORED])))
    return found


def test_of_a_prompt_and_a_completion_the_completion_is_learned(
    mapping: dict[str, Any], tiny_llama: Path
) -> None:
    examples = bound(mapping, tiny_llama).examples(Limits(3, 2, 2)).train
    for text, learned in rows(tiny_llama, examples.collate([0, 1, 2])):
        prompt, _, completion = text.partition(" : ")
        assert prompt
        assert completion == learned
        assert learned in ("red [END]", "blue [END]", "green [END]")


def test_whole_texts_are_learned_but_for_their_first_token(mapping: dict[str, Any], tiny_llama: Path) -> None:
    task = bound(mapping, tiny_llama, text="{text} {label}", prompt=None, completion=None)
    for text, learned in rows(tiny_llama, task.examples(Limits(3, 2, 2)).train.collate([0, 1, 2])):
        assert text.split()[1:] == learned.split()
        assert text.endswith("[END]")


def test_of_a_conversation_the_assistants_words_are_learned(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    turns = [
        ("system", "the"),
        ("user", "rose"),
        ("assistant", "red"),
        ("user", "sky"),
        ("assistant", "blue"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps({"messages": messages[: 5 - 2 * (i % 2)]}) + "\n" for i in range(12)))
    data = {"path": "json", "files": {"train": str(file)}, "test": None}
    task = bound(mapping, tiny_llama, data=data, prompt=None, completion=None, messages="messages")
    found = set(rows(tiny_llama, (e := task.examples(Limits()).train).collate(list(range(len(e))))))
    short = "[system] the [END] [user] rose [END] [assistant] red [END]"
    assert found == {
        (short, "red [END]"),
        (f"{short} [user] sky [END] [assistant] blue [END]", "red [END] blue [END]"),
    }
    as_chat = bound(mapping, tiny_llama, chat=True).examples(Limits(1, 1, 1)).train.collate([0])
    (text, learned), *_ = rows(tiny_llama, as_chat)
    assert text.startswith("[user] ")
    assert text.endswith(f": [END] [assistant] {learned}")


def test_loss_and_token_accuracy_are_those_of_every_text_by_itself(
    mapping: dict[str, Any], tiny_gpt2: Path
) -> None:
    task = bound(mapping, tiny_gpt2, text="{text} {label}", prompt=None, completion=None)
    examples, model = task.examples(Limits(0, 9, 0)).validation, task.model(task.load_trunk())
    trunk = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    total, right, count = 0.0, 0, 0
    for index in range(9):
        ids = examples.collate([index]).inputs["input_ids"]
        with torch.no_grad():
            logits = trunk(ids).logits[0, :-1]
        total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        right += int((logits.argmax(-1) == ids[0, 1:]).sum())
        count += ids.shape[1] - 1
    for batch_size in (1, 4, 9):
        loss = task.score(model, examples, batch_size)
        assert loss.value == pytest.approx(total / count, rel=1e-5)
    assert loss.standard_error is not None
    perplexity = bound(mapping, tiny_gpt2, metric_name="perplexity").score(model, examples)
    assert perplexity.value == pytest.approx(torch.tensor(total / count).exp().item(), rel=1e-5)
    assert perplexity.standard_error == pytest.approx(perplexity.value * loss.standard_error, rel=1e-4)
    accuracy = bound(mapping, tiny_gpt2, metric_name="token_accuracy").score(model, examples)
    assert accuracy.value == pytest.approx(right / count)
    assert not task.metric.higher_is_better
    whole = task.loss(model.eval(), examples.collate(list(range(9)))).detach()
    assert float(whole) == pytest.approx(loss.value, rel=1e-5)


@pytest.mark.slow
def test_exact_match_counts_what_greedy_generation_gives(mapping: dict[str, Any], tiny_gpt2: Path) -> None:
    task = bound(mapping, tiny_gpt2, metric_name="exact_match", max_new_tokens=3)
    model = task.model(task.load_trunk())
    assert isinstance(model, LanguageModel)
    trunk: Any = model.trunk
    _learn(task, model, steps=60)
    examples = task.examples(Limits(0, None, 30)).test
    right = 0
    for index in range(len(examples)):
        batch = examples.collate([index])
        ids = batch.inputs["input_ids"][0].tolist()
        given, target = ids[:-2], ids[-2:]
        for _ in range(2):
            with torch.no_grad():
                given = [*given, int(trunk(torch.tensor([given])).logits[0, -1].argmax())]
        right += given[-2:] == target
    assert right > 0
    trunk.generation_config.do_sample = True  # as folders of chat models say
    for batch_size in (1, 7, 64):
        assert task.score(model, examples, batch_size).value == pytest.approx(right / len(examples))
    assert trunk.generation_config.do_sample


def test_an_answer_ends_where_the_chat_template_ends_it(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a base model writes behind the end of a turn is not learned, and no part of its answer."""
    shutil.copytree(tiny_llama, tmp_path / "m")
    tokenizer = load_tokenizer(str(tiny_llama))
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [system] {% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "m")
    task = bound(mapping, tmp_path / "m", chat=True, metric_name="exact_match")
    examples, model = task.examples(Limits(0, None, 12)).test, task.model(task.load_trunk())
    end = tokenizer.convert_tokens_to_ids("[system]")
    [label] = examples.collate([0]).labels
    answer = label[label != IGNORED].tolist()
    assert answer[-1] == end != tokenizer.eos_token_id
    asked = []

    def on_and_on(*_: Any, generation_config: Any, input_ids: torch.Tensor, **__: Any) -> torch.Tensor:
        asked.append(generation_config.eos_token_id)
        return torch.cat([input_ids, torch.tensor([[*answer, 7, 8]]).expand(len(input_ids), -1)], 1)

    model.answers_in_batches = True
    monkeypatch.setattr(model.trunk, "generate", on_and_on)
    said = words(tmp_path / "m", torch.tensor(answer[:-1]))
    right = sum(
        words(tmp_path / "m", label[label != IGNORED]) == f"{said} [system]"
        for label in examples.collate(list(range(12))).labels
    )
    assert 0 < right < 12
    assert task.score(model, examples).value == pytest.approx(right / 12)
    assert asked == [sorted([1, end])]


@pytest.mark.parametrize("metric", ["choice", "choice_per_character", "token_accuracy"])
def test_where_no_likelihood_is_a_number_nothing_is_right(
    mapping: dict[str, Any], tiny_llama: Path, metric: str
) -> None:
    words = {"label": {"red": "red", "blue": "blue", "green": "green"}}
    task = bound(mapping, tiny_llama, metric_name=metric, words=words)
    model = task.model(task.load_trunk())
    for parameter in model.trunk.parameters():
        parameter.data.fill_(float("nan"))
    assert task.score(model, task.examples(Limits(0, None, 20)).test).value == 0


def test_choice_takes_the_likeliest_completion(mapping: dict[str, Any], tiny_llama: Path) -> None:
    words = {"label": {"red": "red thing", "blue": "blue", "green": "a green"}}
    task = bound(mapping, tiny_llama, metric_name="choice", words=words)
    model = task.model(task.load_trunk())
    _learn(task, model, steps=10)
    examples, tokenizer = task.examples(Limits(0, None, 20)).test, load_tokenizer(str(tiny_llama))
    options = [tokenizer(f"{text} [END]")["input_ids"] for text in words["label"].values()]
    right = 0
    for index in range(len(examples)):
        batch = examples.collate([index])
        ids, learned = batch.inputs["input_ids"][0].tolist(), batch.labels[0]
        target = learned[learned != IGNORED].tolist()
        given = ids[: len(ids) - len(target)]
        scores = []
        for option in options:
            with torch.no_grad():
                log_p = model.trunk(torch.tensor([given + option])).logits[0].log_softmax(-1)
            scores.append(sum(float(log_p[len(given) - 1 + at, token]) for at, token in enumerate(option)))
        right += options[scores.index(max(scores))] == target
    assert right > 0
    assert task.score(model, examples, 7).value == pytest.approx(right / len(examples))
    assert task.metric.name == "accuracy"


def _learn(task: BoundTask, model: tasks.TaskModel, steps: int) -> None:
    examples = task.examples(Limits()).train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for indices in examples.training_order(8, steps, seed=0):
        optimizer.zero_grad()
        task.loss(model, examples.collate(indices)).backward()
        optimizer.step()


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
def test_packed_texts_do_not_see_each_other(
    mapping: dict[str, Any], model: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    plain, packed = (bound(mapping, folder, packing=packing) for packing in (False, True))
    single, rows = (task.examples(Limits(20, 1, 1)).train for task in (plain, packed))
    assert len(rows) < len(single)
    assert sum(rows.lengths) == sum(single.lengths)
    learner = packed.model(packed.load_trunk()).eval()

    def gradient(examples: tasks.Examples) -> list[torch.Tensor]:
        loss = packed.loss(learner, examples.collate(list(range(len(examples)))))
        return [loss.detach(), *torch.autograd.grad(loss, list(learner.parameters()))]

    for ours, expected in zip(gradient(rows), gradient(single), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["Bloom", "Lfm2"])
def test_packing_is_refused_where_texts_would_see_each_other(
    kind: str, mapping: dict[str, Any], tiny_gpt2: Path, tmp_path: Path
) -> None:
    """LFM2 has short convolutions, which see two tokens of the text before: too little was made of that."""
    load_tokenizer(str(tiny_gpt2)).save_pretrained(tmp_path)
    sizes = {
        "Bloom": {"n_layer": 1, "n_head": 2},
        "Lfm2": {
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "layer_types": ["conv", "full_attention"],
            "num_hidden_layers": 2,
        },
    }[kind]
    settings = getattr(transformers, f"{kind}Config")(vocab_size=40, hidden_size=32, **sizes)
    getattr(transformers, f"{kind}ForCausalLM")(settings).save_pretrained(tmp_path)
    task = bound(mapping, tmp_path, packing=True)
    with pytest.raises(
        UserError, match=rf"t.packing: in {kind}ForCausalLM the texts of a row would see each"
    ):
        task.model(task.load_trunk())


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def task(request: pytest.FixtureRequest, mapping: dict[str, Any], tiny_llama: Path) -> BoundTask:
    return bound(mapping, tiny_llama, packing=request.param)


def test_the_features_are_the_mean_over_the_tokens_of_texts(task: BoundTask) -> None:
    examples, trunk = task.examples(Limits(20, 1, 1)).train, task.load_trunk()
    assert len({examples.lengths[row] for row in range(3)}) > 1  # one is padded
    together = task.features(trunk, examples.collate([0, 1, 2]).inputs)
    one_by_one = [task.features(trunk, examples.collate([index]).inputs)[0] for index in range(3)]
    torch.testing.assert_close(together, torch.stack(one_by_one))


def test_the_predictions_are_the_logits_at_every_token(task: BoundTask) -> None:
    examples, trunk = task.examples(Limits(20, 1, 1)).train, task.load_trunk()
    batch = examples.collate([0, 1])
    learned = batch.labels[text_mask(batch.inputs).bool()]
    together = task.predictions(trunk, batch.inputs)
    loss = torch.nn.functional.cross_entropy(together, learned)
    torch.testing.assert_close(loss, task.loss(task.model(trunk), batch))
    one_by_one = [task.predictions(trunk, examples.collate([index]).inputs) for index in range(2)]
    torch.testing.assert_close(together, torch.cat(one_by_one))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt": None, "completion": None},
            "one of text, prompt (with completion) and messages says what",
        ),
        ({"text": "{text}"}, "but text and prompt are given"),
        ({"completion": None}, "prompt and completion belong together"),
        ({"prompt": "a {} b"}, "prompt: 'a {} b': a field {} must hold the name of a column"),
        ({"prompt": "{text"}, "prompt: '{text': expected '}' before end of string"),
        ({"prompt": "Hello"}, "prompt: 'Hello': has no {column} field"),
        ({"metric_name": "choice"}, "completion: '{label}': to choose among, it must hold one column whose"),
        ({"metric_name": "loss_"}, "tasks.colour.metric_name: unknown value 'loss_'; did you mean 'loss'"),
        (
            {"text": "{text}", "prompt": None, "completion": None, "metric_name": "exact_match"},
            "metric_name: exact_match needs a prompt",
        ),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    declared = {key: value for key, value in (mapping | changes).items() if value is not None}
    with pytest.raises(UserError) as caught:
        tasks.build("colour", declared, "tasks")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt": "{txt} :"},
            r"t.prompt: there is no column 'txt' in the train split; did you mean 'text'",
        ),
        ({"words": {"lable": {"a": "b"}}}, r"t.words: no template holds {lable}; did you mean 'label'"),
        (
            {"words": {"label": {"red": "r", "blue": "b"}}},
            r"t.words.label: row \d+ of the train split of .*csv holds 'green', which has no words",
        ),
        (
            {"max_length": 4},
            r"t.max_length: row \d+ of the train split of .*csv has \d+ tokens, and nothing to learn",
        ),
    ],
)
def test_mistakes_in_the_data_are_named(
    mapping: dict[str, Any], tiny_llama: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bound(mapping, tiny_llama, **changes).examples(Limits())


def test_long_texts_are_cut_or_left_out(mapping: dict[str, Any], tiny_llama: Path) -> None:
    task = bound(mapping, tiny_llama, max_length=6, drop_long=True)
    examples = task.examples(Limits()).train
    assert 0 < len(examples) < 108
    assert max(examples.lengths) == 6


def test_a_model_of_another_kind_is_told_which_kind_takes_it(
    mapping: dict[str, Any], tiny_model: Path, tiny_t5: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    needs = r"t.kind: language_modeling needs a causal language model, which .* is not; kind: "
    with pytest.raises(UserError, match=f"{needs}text_classification takes it"):
        bound(mapping, tiny_model)
    with pytest.raises(UserError, match=f"{needs}text_to_text takes it"):
        bound(mapping, tiny_t5)
    tokenizer = load_tokenizer(str(tiny_llama))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    with pytest.raises(UserError, match=r"t.chat: the tokenizer of .* has no chat template"):
        bound(mapping, tmp_path, chat=True)


def test_a_conversation_that_cannot_be_learned_is_named(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.jsonl"
    data = {"path": "json", "files": {"train": str(file)}, "test": None}
    task = bound(mapping, tiny_llama, data=data, prompt=None, completion=None, messages="messages")
    for messages, message in (
        (
            [{"role": "user", "content": "sky"}],
            "no message has the role `assistant`, .*; write the roles user and",
        ),
        ([{"from": "human", "value": "sky"}], "message 1 lacks `role` or `content`: .*; write {role"),
        ([{"role": "human", "content": "sky"}], "no message has the role `assistant`, .*, but human"),
        ([{"role": "assistant", "content": "sky"}], "begins with the assistant, who answers nobody"),
        (
            [{"role": "user", "content": "sky"}, {"role": "assistant", "content": None}],
            "message 2 holds no text as its content, but None; write one",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "sky"}],
            "message 1 holds no text as its content, but",
        ),
    ):
        file.write_text((json.dumps({"messages": messages}) + "\n") * 9)
        with pytest.raises(UserError, match=rf"t.messages: row \d of the train split of .*jsonl: {message}"):
            task.examples(Limits())


@pytest.mark.parametrize(("values", "row"), [([0, 1], 1), ([3, 4], 1), (["", "a text"], 2)])
def test_a_column_that_holds_no_conversations_is_told(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path, values: list[Any], row: int
) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps({"messages": value}) + "\n" for value in values * 6))
    data = {"path": "json", "files": {"train": str(file)}, "test": None}
    task = bound(mapping, tiny_llama, data=data, prompt=None, completion=None, messages="messages")
    message = (
        rf"^t\.messages: row {row} of the train split of .*chat\.jsonl holds .*, which is no list; name a"
    )
    with pytest.raises(UserError, match=message):
        task.examples(Limits())


def test_a_completion_that_is_cut_is_compared_as_a_whole_and_told(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("saft.progress._noted", set())
    file = tmp_path / "a.csv"
    file.write_text("text,label\n" + "sky,blue\nrose,a red red red\n" * 9)
    data = {"path": "csv", "files": {"train": str(file)}, "test": None}
    task = bound(mapping, tiny_llama, data=data, max_length=4, metric_name="exact_match")
    examples, model = task.examples(Limits(0, 1, None)).test, task.model(task.load_trunk())
    notes = [line for line in capsys.readouterr().err.splitlines() if "t.max_length" in line]
    assert len(notes) == 1
    assert " rows have more than 4 tokens and are cut, such as row " in notes[0]
    learned = [label[label != IGNORED] for batch in examples.batches(1) for label in batch.labels]
    batches = iter(learned)

    def cut_answers(model: Any, given: dict[str, torch.Tensor], *_: Any) -> list[list[int]]:
        return [next(batches).tolist() for _ in given["input_ids"]]

    monkeypatch.setattr("saft.tasks.bound_language_task.generate", cut_answers)
    right = sum(words(tiny_llama, tokens).startswith("blue") for tokens in learned)
    assert 0 < right < len(examples)
    assert task.score(model, examples, 1).value == pytest.approx(right / len(examples))


def test_a_content_in_parts_is_one_text(tiny_llama: Path) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "rose"}]
    said = {"role": "assistant", "content": "red"}
    told = segments(load_tokenizer(str(tiny_llama)), [{"role": "user", "content": parts}, said], "row 1")
    assert told[0] == ("[user] the rose [END] [assistant] ", False)


def test_a_message_of_calls_alone_is_for_a_template_that_knows_them(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_llama))
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "sky"}]}
    messages = [{"role": "user", "content": "the rose"}, call]
    with pytest.raises(UserError, match="row 1: message 2 holds no text as its content, but None"):
        segments(tokenizer, messages, "row 1")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] or m['tool_calls'][0].name }} {% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert segments(tokenizer, messages, "row 1")[-1] == ("sky ", True)
    del call["content"]
    assert segments(tokenizer, messages, "row 1")[-1] == ("sky ", True)


def test_what_a_call_lacks_that_another_has_is_not_learned(
    mapping: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    """A parquet file has a value for every key of a column: None where a row has none."""
    calls = [[{"name": "sky", "arguments": {key: "red"}}] for key in ("day", "city")]
    rows = [
        [{"role": "user", "content": "the rose"}, {"role": "assistant", "content": None, "tool_calls": call}]
        for call in calls * 6
    ]
    file = tmp_path / "chat.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"messages": rows}), file)
    data = {"path": "parquet", "files": {"train": str(file)}, "test": None}
    declared = {"kind": "language_modeling", "data": data, "messages": "messages"}
    train = tasks.build("calls", declared, "tasks").rows("t")["train"]  # type: ignore[attr-defined]
    assert all(call[0].keys() == {"role", "content"} for _, call in train)
    assert {repr(call[1]["tool_calls"]) for _, call in train} == {repr(call) for call in calls}
    assert all(call[1]["content"] is None for _, call in train)


def test_whatever_a_template_runs_into_is_told(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_llama))
    said = [{"role": "user", "content": "sky"}, {"role": "assistant", "content": "blue"}]
    for template, message in (
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ raise_exception('no system role') }}", "no system role"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match=f"row 1: the model's chat template refuses it: {message}"):
            segments(tokenizer, said, "row 1")


def test_rows_that_are_all_too_long_are_told(mapping: dict[str, Any], tiny_llama: Path) -> None:
    prompt = "{text} " + "a " * 40
    with pytest.raises(
        UserError, match=r"t.drop_long: leaves none of \d+ rows, such as row \d+ of the train"
    ):
        bound(mapping, tiny_llama, prompt=prompt, drop_long=True, max_length=16).examples(Limits())


def test_answers_that_the_tokenizer_does_not_tell_apart_are_refused(
    mapping: dict[str, Any], tiny_llama: Path
) -> None:
    """Else every one of them would be the right one."""
    words = {"label": {"red": "scarlet", "blue": "azure", "green": "emerald"}}
    changes = {"words": words, "completion": " {label}", "metric_name": "choice"}
    with pytest.raises(
        UserError, match=r"^t.completion: the tokenizer of .* writes two of the answers to choo"
    ):
        bound(mapping, tiny_llama, **changes)
    words["label"] = {"red": "red", "blue": "blue", "green": "emerald"}
    with pytest.raises(
        UserError, match=r"^t.completion: row \d+ of .* has nothing to learn that the tokenizer"
    ):
        bound(mapping, tiny_llama, **changes).examples(Limits())


def test_an_answer_beyond_the_positions_is_refused(mapping: dict[str, Any], tiny_gpt2: Path) -> None:
    words = {"label": {"red": "red " * 40, "blue": "blue", "green": "green"}}
    changes = {"words": words, "completion": " {label}", "metric_name": "choice"}
    with pytest.raises(
        UserError, match=r"t.completion: row \d+ .* may have an answer of 41 tokens, but the mod"
    ):
        bound(mapping, tiny_gpt2, **changes).examples(Limits())
    with pytest.raises(UserError, match=r"^t.max_new_tokens: 33 is more than the 32 positions of .*; lower"):
        bound(mapping, tiny_gpt2, metric_name="exact_match", max_new_tokens=33)
    task = bound(mapping, tiny_gpt2, metric_name="exact_match", max_new_tokens=32)
    assert task.score(task.model(task.load_trunk()), task.examples(Limits(0, 4, 4)).test).examples == 4
