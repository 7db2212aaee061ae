from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from saft import tasks
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate, score, with_head
from saft.models import ModelConfig, load_tokenizer, load_trunk
from saft.tasks import Limits


def test_the_score_is_the_share_that_is_right(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]]
) -> None:
    model = ModelConfig(str(tiny_model))
    tokenizer = load_tokenizer(model)
    task = tasks.build("colour", tiny_tasks["colour"], "tasks")
    examples = task.load(tokenizer, Limits(), "t").test
    classifier = with_head(load_trunk(model), tiny_model, "mean", "colour", task, tokenizer)
    right = 0
    with torch.no_grad():
        for index in range(len(examples)):  # one by one, so without any padding
            batch = examples.collate([index])
            right += int(classifier(batch.inputs).argmax() == batch.labels[0])
    classifier.train()
    for batch_size in (1, 7, 64):
        assert score(classifier, task, examples, batch_size) == pytest.approx(right / len(examples))
    assert classifier.training


def test_any_model_on_given_tasks(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    config = EvaluateConfig(checkpoints=[str(tiny_model)], tasks=tiny_tasks, examples=20, out=str(out))
    figures = evaluate(config).figures
    assert set(figures[str(tiny_model)]) == {"colour", "size"}
    assert json.loads(out.read_text()) == figures


def test_a_model_that_knows_no_tasks_needs_them(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"no saft.json says which tasks this model is for; give `tasks:`"):
        evaluate(EvaluateConfig(checkpoints=[str(tiny_model)]))


def test_a_trained_head_must_be_there(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    linear = {"colour": tiny_tasks["colour"] | {"head": "linear"}}
    with pytest.raises(UserError, match=r"there is no heads/colour.safetensors"):
        evaluate(EvaluateConfig(checkpoints=[str(tmp_path / "model")], tasks=linear))
