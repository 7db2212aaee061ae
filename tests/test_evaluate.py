from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saft.errors import Unfinished, UserError
from saft.evaluate import EvaluateConfig, EvaluateResult, evaluate
from saft.merge import MergeConfig, merge
from saft.models import load_task
from saft.tasks import Metric, Score
from tests.report.test_terminal import printed


def test_any_model_on_given_tasks(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    config = EvaluateConfig(checkpoints=[str(tiny_model)], tasks=tiny_tasks, examples=20, out=str(out))
    result = evaluate(config)
    assert set(result.figures[str(tiny_model)]) == {"colour", "size"}
    written = json.loads(out.read_text())
    for name, score in result.scores[str(tiny_model)].items():
        assert written["scores"][str(tiny_model)][name] == dataclasses.asdict(score)
        assert score.examples == 20
    assert written["metrics"]["size"]["name"] == "accuracy"


def test_a_damaged_checkpoint_does_not_lose_the_scores_of_the_others(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    model.save_pretrained(tmp_path / "nan")
    shutil.copytree(
        tiny_model, tmp_path / "nan", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")
    )
    out = tmp_path / "figures.json"
    paths = [str(tmp_path / "nan"), str(tiny_model)]
    with pytest.raises(Unfinished, match="holds NaN or infinite values") as caught:
        evaluate(EvaluateConfig(paths, tasks=tiny_tasks, examples=4, out=str(out)))
    assert len(caught.value.problems) == 1
    assert isinstance(caught.value.finished, EvaluateResult)
    assert {path: set(row) for path, row in caught.value.finished.scores.items()} == {
        paths[0]: set(),
        paths[1]: {"colour", "size"},
    }
    assert set(json.loads(out.read_text())["scores"][str(tiny_model)]) == {"colour", "size"}
    assert "–" in printed(caught.value.finished.table(), 120)
    with pytest.raises(UserError, match="holds NaN") as alone:
        evaluate(EvaluateConfig(paths[:1], tasks=tiny_tasks, examples=4))
    assert not isinstance(alone.value, Unfinished)


def test_a_model_that_knows_no_tasks_needs_them(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"no saft.json says which tasks this model is for; give `tasks:`"):
        evaluate(EvaluateConfig(checkpoints=[str(tiny_model)]))


def test_a_trained_head_must_be_there(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    linear = {"colour": tiny_tasks["colour"] | {"head": "linear"}}
    with pytest.raises(UserError, match=r"there is no .*heads/colour.safetensors"):
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


def test_a_mean_is_of_all_tasks_in_one_metric() -> None:
    accuracy, loss = Metric("accuracy", "%"), Metric("loss", "nats", False, 1.0, 2)
    scores = {"x": {"a": Score(0.5, None, 4), "b": Score(0.7, None, 4)}, "y": {"a": Score(0.9, None, 4)}}

    def lines(metrics: dict[str, Metric]) -> list[list[str]]:
        text = printed(EvaluateResult(scores, metrics, "test").table(), width=80)
        return [line.split() for line in text.splitlines()[-2:]]

    assert lines({"a": accuracy, "b": accuracy}) == [["x", "50.0", "70.0", "60.0"], ["y", "90.0", "–", "–"]]
    assert lines({"a": accuracy, "b": loss}) == [["x", "50.0", "0.70"], ["y", "90.0", "–"]]


@pytest.mark.parametrize("width", [40, 80])
def test_scores_on_many_tasks_stay_whole_in_a_narrow_terminal(width: int) -> None:
    tasks = [f"task_of_a_name_{number}" for number in range(20)]
    scores = {f"runs/some/where/x{i}": {t: Score(0.123 * (i + 1), None, 4) for t in tasks} for i in range(2)}
    text = printed(
        EvaluateResult(scores, dict.fromkeys(tasks, Metric("accuracy", "%")), "test").table(), width
    )
    assert text.count(" 12.3") == text.count(" 24.6") == 21
    assert all(f"{task}," in text for task in tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "examples: must be at least 1, but is 0"),
        ({"examples": -5}, "examples: must be at least 1, but is -5"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"device": "gpu"}, "device: 'gpu' is not a device of torch; write cpu"),
        ({"checkpoints": []}, "checkpoints: must not be empty"),
        ({"checkpoints": ["a", "a"]}, "checkpoints: holds 'a' twice; write it once"),
        ({"checkpoints": [""]}, "checkpoints.0: is empty; write a path"),
        ({"device": "meta"}, "device: 'meta' is not a device of torch"),
        ({"tasks": {"../x": {}}}, "'../x' cannot be a name"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        EvaluateConfig(**{"checkpoints": ["a"]} | changes)
    assert message in str(caught.value)


def test_a_checkpoint_runs_no_code(tiny_model: Path, tiny_tasks: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "out")
    evil = {"kind": "subprocess:getoutput", "cmd": f"touch {tmp_path / 'ran'}"}
    (tmp_path / "out" / "saft.json").write_text(json.dumps({"tasks": {"rev": evil}}))
    with pytest.raises(
        UserError, match=r"saft.json: tasks.rev.kind: unknown task kind 'subprocess:getoutput'"
    ):
        evaluate(EvaluateConfig([str(tmp_path / "out")]))
    (tmp_path / "out" / "saft.json").write_text(json.dumps({"tasks": {"../../x": tiny_tasks["size"]}}))
    with pytest.raises(UserError, match="names the file of its head"):
        evaluate(EvaluateConfig([str(tmp_path / "out")]))
    assert not (tmp_path / "ran").exists()


def test_every_wrong_task_is_told_at_once(tiny_model: Path, tiny_tasks: dict[str, Any]) -> None:
    def told(**wrong: dict[str, Any]) -> list[str]:
        with pytest.raises(UserError) as caught:
            evaluate(EvaluateConfig([str(tiny_model)], tasks=wrong))
        return caught.value.problems

    first, second = told(one={"kind": "text_clasification"}, two={"kind": "image_clasification"})
    assert first.startswith("tasks.one.kind: unknown task kind 'text_clasification'; did you mean")
    assert second.startswith("tasks.two.kind: unknown task kind 'image_clasification'; did you mean")
    broken = {"data": tiny_tasks["size"]["data"] | {"text": "txt"}}
    first, second = told(one=tiny_tasks["size"] | broken, two=tiny_tasks["colour"] | broken)
    assert first.startswith("tasks.one.data")
    assert second.startswith("tasks.two.data")


def test_every_checkpoint_without_a_task_is_told_at_once(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(tiny_model, tmp_path / name)
    with pytest.raises(UserError) as caught:
        evaluate(EvaluateConfig([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert [str(problem).rpartition(": ")[2] for problem in caught.value.problems] == [
        "no saft.json says which tasks this model is for; give `tasks:`"
    ] * 2
