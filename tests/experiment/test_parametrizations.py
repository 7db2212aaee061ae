"""Arms of different parametrizations in one experiment: merged and measured on the same footing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.experiment import RunConfig
from saft.run import run

SHORT = {"steps": 2, "batch_size": 4, "learning_rate": 3e-3}
ARMS = {
    "full": SHORT,
    "attention": SHORT | {"parametrization": {"name": "attention"}},
    "linearized": SHORT | {"parametrization": {"name": "linearized"}},
    "lora": SHORT | {"parametrization": {"name": "lora", "rank": 2}},
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
