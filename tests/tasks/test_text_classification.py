from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional

from saft import tasks
from saft.errors import UserError
from saft.files.checkpoint import write_manifest
from saft.model_config import ModelConfig
from saft.tasks import Batch, BoundTask, Examples, Limits, TaskModel
from saft.tasks.heads import LinearHead, ZeroShotHead
from saft.tasks.pooling import TextClassifier
from saft.tasks.tokenizer import load_tokenizer
from tests.tasks import tiny_vision


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return tiny_tasks["colour"]


def bound(mapping: dict[str, Any], model: Path, **changes: Any) -> BoundTask:
    return tasks.build("colour", mapping | changes, "tasks").bind("colour", ModelConfig(str(model)), "t")


def test_limits_and_seeds(mapping: dict[str, Any], tiny_model: Path) -> None:
    task = bound(mapping, tiny_model)
    first, second = (task.examples(Limits(20, 5, 30, seed)) for seed in (0, 1))
    assert [len(s) for s in (first.train, first.validation, first.test)] == [20, 5, 30]

    def ids(examples: tasks.Examples) -> list[list[int]]:
        return examples.collate(list(range(len(examples)))).inputs["input_ids"].tolist()

    assert ids(first.train) != ids(second.train)
    assert ids(first.validation) == ids(second.validation)
    assert ids(first.test) == ids(second.test)


def test_zero_shot_head_is_the_mean_prompt_embedding(mapping: dict[str, Any], tiny_model: Path) -> None:
    task = bound(mapping, tiny_model, prompts=["a {} thing", "{}", "{x} is { near {}"], scale=5.0)
    model, tokenizer = task.model(task.load_trunk()), load_tokenizer(str(tiny_model))
    head = model.head
    assert isinstance(head, ZeroShotHead)
    one_by_one = []
    with torch.no_grad():
        for words in mapping["labels"].values():
            prompts = [f"a {words} thing", words, "{x} is { near " + words]  # other braces are text
            embedded = [model.features(dict(tokenizer(text, return_tensors="pt")))[0] for text in prompts]
            mean = torch.stack([functional.normalize(e, dim=0) for e in embedded]).mean(0)
            one_by_one.append(functional.normalize(mean, dim=0))
    torch.testing.assert_close(head.label_embeddings, torch.stack(one_by_one))
    assert head.scale == 5.0


def test_labels_that_are_the_same_to_the_model_are_told(
    mapping: dict[str, Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of them would never be predicted: by its words, or since the model knows none of them."""
    for second in ("Red", "unheard"):
        task = bound(mapping, tiny_model, labels={"red": "red", "blue": "unknown", "green": second})
        task.model(task.load_trunk())
        first = "red" if second == "Red" else "unknown"
        of = "red" if second == "Red" else "blue"
        assert (
            f"t.labels: to the model '{first}' and '{second}', the words of {of} and green, are the same, so "
            "that green is never predicted"
        ) in capsys.readouterr().err
    words = {"0": "dark", "1": "bright", "2": "bright"}
    seeing = tiny_vision.task(tmp_path, head="zero_shot", labels=words, prompts=["a photo of {}"])
    model = ModelConfig(str(tiny_vision.model("clip", tmp_path / "clip")))
    images = tasks.build("light", seeing, "tasks").bind("light", model, "i")
    images.model(images.load_trunk())
    assert "i.labels: to the model 'bright' and 'bright', the words of 1 and 2," in capsys.readouterr().err


def test_a_trunk_that_was_scored_makes_the_same_head_again(mapping: dict[str, Any], tiny_model: Path) -> None:
    """In training mode, with dropout, each head would be another."""
    task = bound(mapping, tiny_model)
    trunk, some = task.load_trunk(), task.examples(Limits(train=0, validation=4, test=0)).validation
    first = task.model(trunk)
    before = first.head.label_embeddings.clone()
    task.score(first, some)
    assert not trunk.training
    assert torch.equal(task.model(trunk).head.label_embeddings, before)


def test_linear_head(mapping: dict[str, Any], tiny_model: Path) -> None:
    task = bound(mapping, tiny_model, head="linear")
    head = task.model(task.load_trunk()).head
    assert isinstance(head, LinearHead)
    assert head.weight.shape == (3, 32)


class Told(TaskModel):
    """Gives the logits that it is told."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(nn.Linear(1, 1), nn.Identity())
        self.logits = logits

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.logits[inputs["row"]]


def test_scores_against_counting(mapping: dict[str, Any], tiny_model: Path) -> None:
    logits = functional.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).float()
    labels = torch.tensor([0, 1, 1, 1, 2])
    examples = Examples([1] * 5, lambda rows: Batch({"row": torch.tensor(rows)}, labels[rows]))
    accuracy = bound(mapping, tiny_model).score(Told(logits), examples, batch_size=2)
    assert accuracy.value == pytest.approx(4 / 5)
    assert accuracy.standard_error == pytest.approx((0.8 * 0.2 / 5) ** 0.5)
    assert accuracy.examples == 5
    macro = bound(mapping, tiny_model, metric_name="macro_f1").score(Told(logits), examples, batch_size=2)
    assert macro.value == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)
    assert macro.standard_error is None


def test_the_score_is_the_share_that_is_right(mapping: dict[str, Any], tiny_model: Path) -> None:
    task = bound(mapping, tiny_model)
    examples, model = task.examples(Limits()).test, task.model(task.load_trunk())
    right = 0
    with torch.no_grad():
        for index in range(len(examples)):  # one by one, so without any padding
            batch = examples.collate([index])
            right += int(model(batch.inputs).argmax() == batch.labels[0])
    model.train()
    for batch_size in (1, 7, 64):
        assert task.score(model, examples, batch_size).value == pytest.approx(right / len(examples))
    assert model.training


def test_the_pooling_is_the_tasks_then_the_models_then_the_heads(
    mapping: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    trained = bound(mapping, tiny_model, pooling="cls")
    trained.save_head(trained.model(trained.load_trunk()), tmp_path)
    assert trained.resolved["pooling"] == "cls"

    def pooling(task: BoundTask, head_from: Path | None) -> str:
        model = task.model(task.load_trunk(), head_from)
        assert isinstance(model, TextClassifier)
        return model.pooling

    free = bound(mapping, tiny_model)
    assert pooling(free, None) == "mean"
    assert pooling(free, tmp_path) == "cls"
    last = ModelConfig(str(tiny_model), "last")
    by_model = tasks.build("colour", mapping, "tasks").bind("colour", last, "t")
    assert pooling(by_model, None) == "last"
    with pytest.raises(UserError, match=r"t.pooling: is last, but the head in .* was made for cls"):
        by_model.model(by_model.load_trunk(), tmp_path)


def test_a_head_made_anew_by_other_weights_is_told(
    mapping: dict[str, Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = bound(mapping, tiny_model)
    trunk = task.load_trunk()
    task.model(trunk, tiny_model)  # not a checkpoint of saft: its weights are its own base
    assert capsys.readouterr().err == ""
    write_manifest(tmp_path, {})
    task.model(trunk, tmp_path)
    assert "its zero-shot head is made by the weights of" in capsys.readouterr().err
    linear = bound(mapping, tiny_model, head="linear")
    with pytest.raises(
        UserError, match=r"there is no .*colour.safetensors, and the head of this task is a trained"
    ):
        linear.model(trunk, tmp_path)


def test_texts_are_cut_to_the_positions_of_the_model(
    mapping: dict[str, Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = bound(mapping, tiny_model, max_length=1000)
    assert "t.max_length: 1000 is more than the 32 positions of" in capsys.readouterr().err
    assert task.facts()["max_length"] == task.resolved["max_length"] == 32


def test_code_is_not_named_by_a_checkpoint(mapping: dict[str, Any]) -> None:
    outside = mapping | {"kind": "saft.tasks.text_classification:TextClassification"}
    tasks.build("colour", outside, "tasks")
    with pytest.raises(UserError, match=r"out/saft.json: tasks.colour.kind: unknown task kind 'saft.tasks"):
        tasks.build("colour", outside, "out/saft.json: tasks", trusted=False)
    pickled = mapping | {"data": mapping["data"] | {"path": "pandas"}}
    with pytest.raises(UserError, match=r"out/saft.json: tasks.colour.data.path: 'pandas' is not one of"):
        tasks.build("colour", pickled, "out/saft.json: tasks", trusted=False)
    tasks.build("colour", mapping, "out/saft.json: tasks", trusted=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": None}, "tasks.colour.kind: is required"),
        ({"kind": "text_clasification"}, "unknown task kind 'text_clasification'; did you mean 'text_class"),
        ({"labels": {"red": "red"}}, "tasks.colour: labels: a classification needs at least 2"),
        ({"prompts": ["no place"]}, "tasks.colour: prompts: each must hold {}"),
        ({"scale": 0}, "tasks.colour.scale: must be above 0"),
        ({"max_length": 2}, "tasks.colour.max_length: must be at least 3"),
        ({"max_lenght": 4}, "tasks.colour.max_lenght: unknown key; did you mean 'max_length'"),
        ({"head": "lienar"}, "tasks.colour.head: unknown value 'lienar'; did you mean 'linear'"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        tasks.build("colour", mapping | changes, "tasks")
    assert message in str(caught.value)


def test_matthews_correlation_against_its_formula(mapping: dict[str, Any], tiny_model: Path) -> None:
    logits = functional.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).float()
    labels = torch.tensor([0, 1, 1, 1, 2])
    examples = Examples([1] * 5, lambda rows: Batch({"row": torch.tensor(rows)}, labels[rows]))
    score = bound(mapping, tiny_model, metric_name="matthews").score(Told(logits), examples, batch_size=2)
    assert score.value == pytest.approx(matthews_corrcoef(labels, logits.argmax(-1)))
    assert score.standard_error is None


@pytest.mark.parametrize("written", ["csv", "json"])
def test_a_text_may_have_several_labels(
    mapping: dict[str, Any], tiny_model: Path, tmp_path: Path, written: str
) -> None:
    rows: list[tuple[str, list[str]]] = [("rose sky", ["red", "blue"]), ("sky", ["blue"]), ("thing", [])]
    file = tmp_path / f"several.{written}"
    if written == "csv":
        lines = [f'{text},"{", ".join(labels)}"' for text, labels in rows * 6]
        file.write_text("\n".join(["text,label", *lines]) + "\n")
    else:
        file.write_text("".join(json.dumps({"text": t, "label": labels}) + "\n" for t, labels in rows * 6))
    data = mapping["data"] | {"path": written, "files": {"train": str(file)}, "test": None}
    several = {
        "data": data,
        "labels": {"red": "red", "blue": "blue"},
        "head": "linear",
        "several_labels": True,
    }
    task = bound(mapping, tiny_model, **several)
    examples = task.examples(Limits()).train
    batch, tokenizer = examples.collate(list(range(len(examples)))), load_tokenizer(str(tiny_model))
    wanted = {
        "[CLS] rose sky [SEP]": [1, 1],
        "[CLS] sky [SEP] [PAD]": [0, 1],
        "[CLS] thing [SEP] [PAD]": [0, 0],
    }
    for ids, labels in zip(batch.inputs["input_ids"], batch.labels.tolist(), strict=True):
        assert labels == wanted[tokenizer.decode(ids)]
    model = task.model(task.load_trunk())
    assert float(task.loss(model, batch).detach()) == pytest.approx(0.693147, abs=1e-5)  # log 2: logits are 0
    assert not model.classifies
    told = torch.where(batch.labels > 0, 1.0, -1.0)
    told[0, 0] *= -1
    wrong = Examples([1] * len(told), lambda rows: Batch({"row": torch.tensor(rows)}, batch.labels[rows]))
    assert task.score(Told(told), wrong).value == pytest.approx(1 - 1 / len(told))
    f1 = bound(mapping, tiny_model, **several, metric_name="micro_f1").score(Told(told), wrong).value
    assert f1 == pytest.approx(f1_score(batch.labels, told > 0, average="micro"))


def test_several_labels_need_a_linear_head(mapping: dict[str, Any]) -> None:
    for changes, message in (
        ({}, "several_labels: needs head: linear"),
        ({"head": "linear", "metric_name": "matthews"}, "metric_name: matthews needs one label a text"),
    ):
        with pytest.raises(UserError, match=message):
            tasks.build("colour", mapping | {"several_labels": True} | changes, "tasks")
