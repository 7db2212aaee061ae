from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saft import tasks
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate, score, with_head
from saft.merge import MergeConfig, merge
from saft.models import ModelConfig, load_task, load_tokenizer, load_trunk
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


@pytest.mark.parametrize("method", ["emr", "tall_masks", "smile"])
def test_each_task_is_measured_on_its_own_model_where_a_merge_kept_a_part_for_it(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path, method: str
) -> None:
    models = {}
    for seed, name in enumerate(("colour", "size")):
        model = transformers.AutoModel.from_pretrained(tiny_model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * 0.1
        model.save_pretrained(tmp_path / name)
        models[name] = str(tmp_path / name)
    out = str(tmp_path / "out")
    merge(MergeConfig(method, str(tiny_model), models), out)
    figures = evaluate(EvaluateConfig(checkpoints=[out], tasks=tiny_tasks, examples=30)).figures[out]
    for name in models:
        load_task(out, name).save_pretrained(tmp_path / f"plain-{name}")
        shutil.copy(tiny_model / "tokenizer.json", tmp_path / f"plain-{name}")
        shutil.copy(tiny_model / "tokenizer_config.json", tmp_path / f"plain-{name}")
        plain = str(tmp_path / f"plain-{name}")
        own = {name: tiny_tasks[name]}
        alone = evaluate(EvaluateConfig(checkpoints=[plain], tasks=own, examples=30)).figures[plain]
        assert figures[name] == alone[name]
    with pytest.raises(UserError, match=r"has no part for 'sise'; did you mean 'size'\?"):
        evaluate(EvaluateConfig(checkpoints=[out], tasks={"sise": tiny_tasks["size"]}))
