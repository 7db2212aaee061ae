from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from saft import tasks
from saft.errors import UserError
from saft.models import Classifier, ModelConfig, load_tokenizer, load_trunk
from saft.tasks import Limits
from saft.tasks.heads import LinearHead, ZeroShotHead


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return tiny_tasks["colour"]


def test_limits_and_seeds(mapping: dict[str, Any], tiny_model: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(str(tiny_model)))
    task = tasks.build("colour", mapping, "tasks")
    first, second = (task.load(tokenizer, Limits(20, 5, 30, seed), "t") for seed in (0, 1))
    assert [len(s) for s in (first.train, first.validation, first.test)] == [20, 5, 30]

    def ids(examples: tasks.Examples) -> list[list[int]]:
        return examples.collate(list(range(len(examples)))).inputs["input_ids"].tolist()

    assert ids(first.train) != ids(second.train)
    assert ids(first.validation) == ids(second.validation)
    assert ids(first.test) == ids(second.test)


def test_zero_shot_head_is_the_mean_prompt_embedding(mapping: dict[str, Any], tiny_model: Path) -> None:
    model = ModelConfig(str(tiny_model))
    tokenizer, classifier = load_tokenizer(model), Classifier(load_trunk(model), nn.Identity())
    task = tasks.build("colour", mapping | {"prompts": ["a {} thing", "{}"], "scale": 5.0}, "tasks")
    head = task.head_for(classifier, tokenizer)
    assert isinstance(head, ZeroShotHead)
    one_by_one = []
    with torch.no_grad():
        for words in mapping["labels"].values():
            prompts = [f"a {words} thing", words]
            embedded = [classifier.embed(dict(tokenizer(text, return_tensors="pt")))[0] for text in prompts]
            mean = torch.stack([functional.normalize(e, dim=0) for e in embedded]).mean(0)
            one_by_one.append(functional.normalize(mean, dim=0))
    torch.testing.assert_close(head.label_embeddings, torch.stack(one_by_one))
    assert head.scale == 5.0


def test_linear_head(mapping: dict[str, Any], tiny_model: Path) -> None:
    model = ModelConfig(str(tiny_model))
    task = tasks.build("colour", mapping | {"head": "linear"}, "tasks")
    head = task.head_for(Classifier(load_trunk(model), nn.Identity()), load_tokenizer(model))
    assert isinstance(head, LinearHead)
    assert head.weight.shape == (3, 32)


def test_metrics_against_counting(mapping: dict[str, Any]) -> None:
    logits = functional.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).float()
    labels = torch.tensor([0, 1, 1, 1, 2])
    accuracy = tasks.build("c", mapping, "tasks").metric()
    accuracy.update(logits, labels)
    assert accuracy.compute() == pytest.approx(4 / 5)
    macro = tasks.build("c", mapping | {"metric_name": "macro_f1"}, "tasks").metric()
    macro.update(logits, labels)
    assert macro.compute() == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": None}, "tasks.colour.kind: is required"),
        ({"kind": "text_clasification"}, "unknown task kind 'text_clasification'; did you mean 'text_class"),
        ({"labels": {"red": "red"}}, "tasks.colour: labels: a classification needs at least 2"),
        ({"prompts": ["no place"]}, "tasks.colour: prompts: each must hold {}"),
        ({"scale": 0}, "tasks.colour: scale must be above 0"),
        ({"max_lenght": 4}, "tasks.colour.max_lenght: unknown key; did you mean 'max_length'"),
        ({"head": "lienar"}, "tasks.colour.head: unknown value 'lienar'; did you mean 'linear'"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        tasks.build("colour", mapping | changes, "tasks")
    assert message in str(caught.value)
