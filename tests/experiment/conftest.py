"""A tiny experiment of one arm and one merge, begun once for all tests of this folder."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft import config
from saft.experiment import RunConfig
from saft.run import run
from tests.forks import FORKS


@pytest.fixture(scope="session")
def small(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": {"path": str(tiny_model)},
        "tasks": tiny_tasks,
        "validation_examples": 6,
        "test_examples": 10,
        "sharpness_examples": 4,
        "arms": {"adamw": {"steps": 2, "batch_size": 4, "learning_rate": 3e-3}},
        "merges": {"task_arithmetic": {"scaling": [0.3, 0.6]}},
        "measures": ["transfer", "leave_one_out", {"name": "loss_line", "grid": 3}],
    }


@pytest.fixture(scope="session")
def finished(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    run(config.parse(RunConfig, small | {"out": str(folder)}, "run.yaml"))
    return folder


@pytest.fixture
def moved_models(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """Three models beside the tiny one, each some way from it."""
    folders = {}
    for seed, name in enumerate(("a", "b", "c")):
        shutil.copytree(tiny_model, tmp_path / name)
        draw = torch.Generator().manual_seed(seed)
        weights = load_file(tiny_model / "model.safetensors")
        moved = {key: x + 0.01 * torch.randn(x.shape, generator=draw) for key, x in weights.items()}
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        folders[name] = str(tmp_path / name)
    return folders


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers of the executor `local` from one process that has the imports: they take seconds."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: FORKS)
