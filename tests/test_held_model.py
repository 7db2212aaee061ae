"""A start that a process asks for again is read once, and each caller has its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from saft import held_model, models
from saft.errors import UserError
from saft.files.checkpoint import WEIGHTS
from saft.held_model import start_trunk
from saft.model_config import ModelConfig


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is read; nothing is held from before, nor left behind."""
    names: list[str] = []

    def load(config: ModelConfig, task: str | None = None, kind: object = None) -> nn.Module:
        names.append(Path(config.path).name)
        return models.load_trunk(config, task, kind)

    monkeypatch.setattr(held_model, "load_trunk", load)
    monkeypatch.setattr(held_model, "_held", held_model._Held())
    return names


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


def asked_for(folder: Path) -> nn.Module:
    return start_trunk(ModelConfig(str(folder)), "news")


def test_what_is_asked_for_again_is_read_no_more_and_is_the_same(base: Path, read: list[str]) -> None:
    expected = models.load_trunk(ModelConfig(str(base))).state_dict()
    for _ in range(4):
        trunk = asked_for(base)
        assert not trunk.training
        assert trunk.state_dict().keys() == expected.keys()
        assert all(torch.equal(part, expected[name]) for name, part in trunk.state_dict().items())
        with torch.no_grad():
            for parameter in trunk.parameters():  # a caller's own: nobody else sees what becomes of it
                parameter.zero_()
    assert read == ["base", "base"]


def test_who_asks_once_holds_nothing(base: Path) -> None:
    asked_for(base)
    assert held_model._held.model is None


def test_tied_weights_stay_tied(tiny_gpt2: Path) -> None:
    for _ in range(3):
        trunk: Any = start_trunk(ModelConfig(str(tiny_gpt2)), "news", transformers.AutoModelForCausalLM)
        assert trunk.get_input_embeddings().weight is trunk.get_output_embeddings().weight


def test_other_files_in_the_same_place_are_read(base: Path, read: list[str]) -> None:
    for _ in range(3):
        asked_for(base)
    weights = load_file(base / WEIGHTS)
    (base / WEIGHTS).unlink()
    save_file({name: part * 2 for name, part in weights.items()}, base / WEIGHTS, {"format": "pt"})
    for _ in range(3):
        trunk = asked_for(base)
        name, part = next(iter(trunk.state_dict().items()))
        torch.testing.assert_close(part, weights[name] * 2)
    assert len(read) == 4


def test_a_large_one_is_read_every_time(base: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_model, "MOST_BYTES", 100)
    for _ in range(3):
        asked_for(base)
    assert len(read) == 3
    assert held_model._held.model is None


def test_what_is_wrong_is_told_as_by_who_reads(base: Path) -> None:
    for _ in range(3):
        asked_for(base)
    (base / "config.json").unlink()
    with pytest.raises(UserError, match="config"):
        asked_for(base)
    (base / WEIGHTS).unlink()
    with pytest.raises(UserError, match="holds no model"):
        asked_for(base)
