"""What is right in a merge, but may not be meant."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import saft
from saft.errors import Note
from saft.merging.inputs.same_numbers import same_numbers
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.merge_models import plan_of
from saft.merging.notes import identical, notes, whole_numbers


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
    for method in ("linear", "slerp", "multi_slerp"):  # the base of a mergekit file is a model as any other
        assert told(method, base, {"a": base, "b": models["a"]}) == []
    around_base = {"parameters": {"center": "base"}}
    assert len(told("multi_slerp", base, {"a": base, "b": models["a"]}, **around_base)) == 1


def test_copies_in_other_folders_are_found_by_their_numbers(checkpoints, tmp_path):
    base, models = checkpoints
    for name, source in (("copy", models["a"]), ("untouched", base)):
        shutil.copytree(source, tmp_path / name)
    each = {**models, "copy": str(tmp_path / "copy"), "untouched": str(tmp_path / "untouched")}
    zero, alike = told("average", base, each)
    assert zero == "'untouched' is the base itself: a task vector of zeros, counted as a task"
    assert alike == "'a', 'copy' are one and the same model, which counts 2 times"


def test_a_change_below_the_digits_of_the_base_is_one():
    weight = torch.ones(4, dtype=torch.bfloat16)
    moved = [{"w": weight.float() * (1 + by)} for by in (0, 1e-3, 1e-3, 2e-3)]
    found = identical(plan_of({"w": weight}, [*moved, {"w": moved[1]["w"].bfloat16()}], "average", {}))
    assert found == (["1", "5"], [["2", "3"]])


def test_digits_that_the_arithmetic_does_not_keep():
    base, model = ({"w": torch.full((2,), value, dtype=torch.float64)} for value in (0.1, 0.2))
    (found,) = notes(plan_of(base, [model], "average", {}))
    assert found.startswith("'w': of float64, of which float32 keeps seven digits")
    for options in ({"arithmetic": "float64"}, {"dtype": "float32"}):
        assert not list(notes(plan_of(base, [model], "average", options)))


def test_few_bytes_are_read_to_find_copies(checkpoints, tmp_path):
    base, models = checkpoints
    shutil.copytree(models["a"], tmp_path / "copy")
    plan = check(MergeConfig("average", base, {**models, "copy": str(tmp_path / "copy")}))
    assert identical(plan) == ([], [["a", "copy"]])
    assert identical(plan, most=1) == ([], [])


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
        tensors = {
            "weight": torch.full((2,), 1.0 + len(locations)),
            "mask": torch.tensor(values),
            "kept": torch.tensor([True]),
        }
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


def test_whole_numbers_are_compared_up_to_a_size_the_small_ones_first(monkeypatch):
    base = {"weight": torch.ones(2), "large": torch.zeros(9), "small": torch.zeros(2, dtype=torch.int8)}
    model = base | {"large": torch.zeros(9), "small": torch.ones(2, dtype=torch.int8)}
    base, model = (
        {name: x.long() if name == "large" else x for name, x in tensors.items()} for tensors in (base, model)
    )
    monkeypatch.setattr("saft.merging.notes._COMPARED", 16)
    read = []
    monkeypatch.setattr(
        "saft.merging.notes.same_numbers",
        lambda name, *sources: read.append(name) or same_numbers(name, *sources),
    )
    changed, unread = whole_numbers(plan_of(base, [model], "average", {}))
    assert changed.startswith(
        "'small': of whole numbers or booleans, which are not merged; the models' differ"
    )
    assert unread.startswith("'large': ")
    assert "are not compared with the models', since those are more than" in unread
    assert read == ["small"]


def test_another_shape_is_told_without_reading(monkeypatch):
    monkeypatch.setattr("saft.merging.notes._COMPARED", 0)
    base = {"weight": torch.ones(2), "mask": torch.zeros(2, dtype=torch.bool)}
    (changed,) = whole_numbers(
        plan_of(base, [base | {"mask": torch.zeros(3, dtype=torch.bool)}], "average", {})
    )
    assert "the models' differ from the base's" in changed


def test_merges_in_memory_warn_where_they_are_called():
    base, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.num_batches_tracked += 1
    saft.merge_models(base, [model], "average")  # how many batches it has seen changes nothing
    base.register_buffer("mask", torch.tensor([0, 1]))
    model.register_buffer("mask", torch.tensor([0, 2]))
    with pytest.warns(Note, match="^'mask': of whole numbers") as told:
        saft.merge_models(base, [model], "average")
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        saft.merge_models(base, [model], "average")
