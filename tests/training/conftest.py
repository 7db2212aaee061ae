from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.train import TrainConfig
from tests.forks import ForkedCommand


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> TrainConfig:
    """Return a training of the tiny model, with what the test's file says in SETTINGS."""
    mapping = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["colour"],
        "name": "colour",
        "reference": {"size": tiny_tasks["size"]},
        "out": str(tmp_path / "out"),
        "train_examples": 40,
        "trainer": {"accelerator": "cpu"},
    }
    return config.parse(TrainConfig, mapping | request.module.SETTINGS, "test")


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of a training on two devices: importing what they need takes each many seconds."""
    monkeypatch.setattr(subprocess, "Popen", ForkedCommand)
