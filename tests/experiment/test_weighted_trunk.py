"""Weights in memory against the folder that `saft merge` writes of them: the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.weighted_trunk import WeightedTrunk, Weights, with_weights
from saft.merge import merge
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.model_config import ModelConfig
from saft.models import load_trunk


@pytest.fixture
def config(tiny_model: Path, moved_models: dict[str, str]) -> MergeConfig:
    models = {name: moved_models[name] for name in ("a", "b")}
    return MergeConfig("ties", str(tiny_model), models, {"density": 0.5}, exclude=["pooler.*"], scaling=0.7)


@pytest.mark.parametrize(
    "weights",
    [{"a": [0.3], "b": [0.55]}, {"a": [0.1, 0.7, 0.4], "b": [0.2, 0.2, 0.9]}],
    ids=["per task", "per layer"],
)
def test_the_trunk_is_the_folder_that_is_merged(
    config: MergeConfig, tiny_model: Path, tmp_path: Path, weights: Weights
) -> None:
    trunk = load_trunk(ModelConfig(str(tiny_model)))
    weighted = WeightedTrunk(ScaledTrunk(trunk, {}), check(config))
    weighted.by({"a": [1.0], "b": [-1.0]})  # what was before leaves nothing
    state = weighted.by(weights).state_dict()
    merge(with_weights(config, weights), tmp_path / "merged")
    written = load_trunk(ModelConfig(str(tmp_path / "merged"))).state_dict()
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in state)


def test_weights_along_the_layers_have_lines_between(config: MergeConfig, tiny_model: Path) -> None:
    weighted = WeightedTrunk(ScaledTrunk(load_trunk(ModelConfig(str(tiny_model))), {}), check(config))
    state = weighted.by({"a": [0.0, 0.5, 1.0], "b": [0.0]}).state_dict()
    base, a = (
        load_file(Path(folder) / "model.safetensors") for folder in (tiny_model, config.by_task()["a"])
    )
    for layer, share in ((0, 0.0), (1, 1.0)):  # two layers: the first and the last
        name = f"encoder.layer.{layer}.output.dense.weight"
        torch.testing.assert_close(state[name], base[name] + share * (a[name] - base[name]))
