"""Arms of different parametrizations in one experiment: merged and measured on the same footing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import saft.tasks
from saft import config
from saft.evaluate import EvaluateConfig, evaluate
from saft.experiment import RunConfig
from saft.model_config import ModelConfig
from saft.run import run
from saft.stored_names import stored_names
from tests.tasks import tiny_vision

pytestmark = pytest.mark.slow

SHORT = {"steps": 2, "batch_size": 4, "learning_rate": 3e-3}
ARMS = {
    "full": SHORT,
    "attention": SHORT | {"parametrization": {"name": "attention"}},
    "linearized": SHORT | {"parametrization": {"name": "linearized"}},
    "lora": SHORT | {"parametrization": {"name": "lora", "rank": 2}},
}


KINDS: dict[str, dict[str, Any]] = {
    "tiny_llama": {"kind": "language_modeling", "prompt": "{text} :", "completion": "{label}"},
    "tiny_t5": {"kind": "text_to_text", "input": "{text}", "target": "{label}", "metric_name": "loss"},
    "clip": {"head": "zero_shot"},
    "vit": {"head": "linear"},  # whose class has other names for its tensors than files have
}


@pytest.fixture(scope="module")
def compared(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("parametrizations") / "run"
    run(config.parse(RunConfig, small | {"arms": ARMS, "out": str(folder)}, "run.yaml"))
    results: dict[str, Any] = json.loads((folder / "results.json").read_text()) | {"folder": folder}
    return results


def test_every_arm_is_merged_tested_and_measured(compared: dict[str, Any]) -> None:
    cells = {cell["arm"]: cell for cell in compared["cells"]}
    assert cells.keys() == ARMS.keys()
    for cell in cells.values():
        assert cell["merges"]["task_arithmetic"]["shared"]["test"].keys() == {"colour", "size"}
        assert all(norm > 0 for norm in cell["measured"]["norm"].values())
        figures = compared["folder"] / "figures" / f"all/{cell['arm']}/seed0/experts/colour/sharpness.json"
        assert figures.is_file()
    assert "lora" in compared["arms"]["lora"]["extras"]["parametrization"]


def test_the_experts_of_lora_are_adapters(compared: dict[str, Any]) -> None:
    folder: Path = compared["folder"]
    files = {file.name for file in (folder / "experts/all/lora/seed0/colour").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "heads", "saft.json"} <= files
    assert "model.safetensors" not in files


@pytest.mark.parametrize("kind", KINDS)
def test_full_and_lora_are_compared_by_the_same_merge(
    kind: str, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The merge of adapters is that of their full changes; its figure is what `saft evaluate` finds."""
    if "head" in KINDS[kind]:
        model, tasks = tiny_vision.model(kind, tmp_path / "model"), {}
        for name in ("shade", "again"):
            (tmp_path / name).mkdir()
            tasks[name] = tiny_vision.task(tmp_path / name, **KINDS[kind])
    else:
        model = request.getfixturevalue(kind)
        tasks = {
            name: KINDS[kind]
            | {"data": {key: task["data"][key] for key in ("path", "files")}, "max_length": 24}
            for name, task in tiny_tasks.items()
        }
    options = {
        "out": str(tmp_path / "run"),
        "model": {"path": str(model)},
        "tasks": tasks,
        "arms": {name: ARMS[name] for name in ("full", "lora")},
        "regimes": {"few": 12},
        "validation_examples": 6,
        "test_examples": 8,
        "merges": {"task_arithmetic": {"scaling": [0.5]}},
        "keep": ["experts", "merges"],
        "trainer": {"accelerator": "cpu"},
    }
    folder = run(config.parse(RunConfig, options, "run.yaml")).folder
    results = json.loads((folder / "results.json").read_text())
    base = load_file(folder / "base" / "model.safetensors")
    for cell in results["cells"]:
        [merged] = (folder / "merges").glob(f"**/{cell['arm']}/**/task_arithmetic")
        weights = load_file(merged / "model.safetensors")
        assert weights.keys() == base.keys()
        changes = dict.fromkeys(base, 0.0)
        for task in tasks:
            expert = folder / f"experts/few/{cell['arm']}/seed0/{task}"
            assert (expert / "adapter_config.json").is_file() == (cell["arm"] == "lora")
            bound = saft.tasks.build(task, tasks[task], "t").bind(task, ModelConfig(str(model)), "t")
            trunk = bound.load_trunk(expert)
            for name, tensor in trunk.state_dict().items():
                stored = stored_names(trunk)[name]
                if stored in base:
                    changes[stored] = changes[stored] + (tensor - base[stored])
        assert any(torch.is_tensor(change) and change.any() for change in changes.values())
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, base[name] + 0.5 * changes[name], rtol=1e-5, atol=1e-6)
        scores = evaluate(EvaluateConfig([str(merged)], split="test", examples=8)).scores[str(merged)]
        for task in tasks:
            figure = cell["merges"]["task_arithmetic"]["shared"]["test"][task]
            assert scores[task].value == pytest.approx(
                figure["value"] if isinstance(figure, dict) else figure
            )
