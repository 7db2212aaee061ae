"""`saft summarize`: a file that another training reads instead of inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import saft
from saft import config
from saft.errors import UserError
from saft.penalties.kronecker import KroneckerFactors
from saft.summarize import SummarizeConfig, summarize
from saft.train import TrainConfig


@pytest.fixture
def settings(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> SummarizeConfig:
    mapping = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["size"],
        "out": str(tmp_path / "size.safetensors"),
        "examples": 20,
    }
    return config.parse(SummarizeConfig, mapping, "test")


def test_an_expert_is_trained_with_the_file_only(
    settings: SummarizeConfig, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    result = summarize(settings)
    assert "from 20 inputs\nwhat it reveals of them: which tokens occur" in str(result)
    linear = {name: of for name, of in result.factors.layers.items() if of.inputs.dim() == 2}
    alone = dataclasses.replace(
        result, factors=KroneckerFactors(linear), examples=1, numbers=12
    )  # as a ViT has
    assert "12 numbers, from 1 input\nwhat it reveals of them: of activations" in str(alone)
    mapping = {
        "model": {"path": settings.model.path},
        "task": tiny_tasks["colour"],
        "training": {"steps": 4, "learning_rate": 1e-3},
        "train_examples": 20,
        "trainer": {"accelerator": "cpu"},
    }
    trunks = []
    for strength in (0.0, 100.0):
        penalty = {"name": "kfac_drift", "every": 1, "strength": strength, "summaries": [str(result.file)]}
        mapping["training"]["penalty"] = penalty
        config_ = config.parse(TrainConfig, mapping | {"out": str(tmp_path / f"{strength}")}, "test")
        trunks.append(load_file(saft.train(config_).folder / "model.safetensors"))
    name = "encoder.layer.1.output.dense.weight"
    base = load_file(Path(settings.model.path) / "model.safetensors")[name]
    free, held = ((trunk[name] - base).norm() for trunk in trunks)
    assert free != held


def test_a_file_that_is_there_is_kept(settings: SummarizeConfig, tmp_path: Path) -> None:
    Path(settings.out).write_text("mine")
    with pytest.raises(UserError, match=r"size\.safetensors: exists already; replace it with --overwrite"):
        summarize(settings)
    assert Path(settings.out).read_text() == "mine"
    summarize(settings, overwrite=True)
    assert load_file(settings.out)
