"""What is right in a merge, but may not be meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.notes import notes


def told(*arguments, **more):
    return list(notes(check(MergeConfig(*arguments, **more))))


def test_nothing_is_told_of_a_plain_merge(checkpoints):
    base, models = checkpoints
    assert told("average", base, models) == []


def test_the_base_among_the_models_and_a_model_given_twice(checkpoints):
    base, models = checkpoints
    again = str(Path(models["a"], "..", Path(models["a"]).name))
    found = told("average", base, {"zero": base, "one": models["a"], "two": models["a"], "three": again})
    assert found[0].startswith("'zero' is the base itself")
    assert found[1:] == ["'one', 'two', 'three' are one and the same model, which counts 3 times"]


def test_other_positions_than_the_bases(checkpoints, tmp_path):
    base, models = checkpoints
    for folder, length in ((base, 512), (models["a"], 2048)):
        (tmp_path / folder / "config.json").write_text(json.dumps({"max_position_embeddings": length}))
    (found,) = told("average", base, models)
    assert found.startswith("models.a: its max_position_embeddings is 2048, the base's 512")


def test_code_that_comes_with_the_base(checkpoints, tmp_path):
    base, models = checkpoints
    (tmp_path / base / "modeling_x.py").write_text("")
    (found,) = told("average", base, models)
    assert "code of its own (modeling_x.py)" in found


@pytest.mark.parametrize("part", ["self_attn", "layre"])
def test_a_filter_that_matches_nothing(checkpoints, part):
    base, models = checkpoints
    setting = [{"filter": part, "value": 0.9}, {"filter": "layer.0", "value": 0.5}, {"value": 0.1}]
    found = told("task_arithmetic", base, models, varying={"weights": [setting, 1.0, 1.0]})
    assert len(found) == 1
    assert found[0].startswith(f"varying.weights: the filter '{part}' matches no tensor")


def test_whole_numbers_that_the_merge_leaves_as_the_bases(tmp_path):
    locations = {}
    for place, values in {"base": [0, 1], "a": [0, 1], "b": [0, 2]}.items():
        tensors = {"weight": torch.ones(2), "mask": torch.tensor(values), "kept": torch.tensor([True])}
        (tmp_path / place).mkdir()
        save_file(tensors, tmp_path / place / "model.safetensors")
        locations[place] = str(tmp_path / place)

    def told(*models):
        config = MergeConfig("average", locations["base"], [locations[name] for name in models])
        return list(notes(check(config)))

    assert told("a") == []
    assert told("a", "b") == [
        "'mask': of whole numbers or booleans, which are not merged; the models' differ from the base's, "
        "which stay"
    ]
