from __future__ import annotations

import json

import pytest
import torch

from saft.errors import UserError
from saft.files.checkpoint import weight_files, write_tensors
from saft.files.sentence_modules import (
    different_settings,
    module_files,
    module_of,
    module_settings,
    module_tensors,
)
from saft.files.weights_writer import WeightsWriter


@pytest.fixture
def folder(tmp_path):
    """A folder of sentence-transformers with a pooling and a dense module."""
    listed = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
    ]
    modules = [
        {"idx": at, "path": path, "type": f"st.models.{kind}"} for at, (path, kind) in enumerate(listed)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for name, settings in (("1_Pooling", {"pooling_mode": "mean"}), ("2_Dense", {"in_features": 2})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
    write_tensors(tmp_path / "2_Dense" / "model.safetensors", {"linear.weight": torch.ones(3, 2)})
    return tmp_path


def test_modules_and_their_weights_are_found(folder):
    assert module_settings(folder) == {
        "1_Pooling": {"type": "Pooling", "pooling_mode": "mean"},
        "2_Dense": {"type": "Dense", "in_features": 2},
        "3_Normalize": {"type": "Normalize"},
    }
    assert module_files(folder) == {"2_Dense": folder / "2_Dense" / "model.safetensors"}
    assert {name: header.shape for name, header in module_tensors(folder).items()} == {
        "2_Dense/linear.weight": (3, 2)
    }


def test_another_folder_has_no_modules(tmp_path):
    assert module_settings(tmp_path) == {}
    assert module_tensors(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "3", "null", "[1]", '[{"path": 1, "type": "a"}]'])
def test_a_damaged_list_is_told(tmp_path, text):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(UserError, match=r"modules\.json: is not"):
        module_settings(tmp_path)


def test_no_path_leads_out_of_the_folder(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "1_/../../other", "type": "Dense"}]))
    assert module_settings(tmp_path) == {}


@pytest.mark.parametrize(
    "name", ["inner/model.safetensors", "inner/pytorch_model.bin", "model-00001-of-00002.safetensors"]
)
def test_weights_below_a_module_or_in_parts_are_refused(folder, name):
    file = folder / "3_Normalize" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="which saft cannot merge; merge such models in memory"):
        module_files(folder)


@pytest.mark.parametrize("place", ["query_0_Transformer/model.safetensors", "0_BERT/pytorch_model.bin"])
def test_of_a_model_whose_trunk_is_below_too_the_cure_is_told(folder, place):
    (folder / place).parent.mkdir()
    (folder / place).write_bytes(b"")
    with pytest.raises(UserError, match=rf"has its weights in .*{place[:6]}.*; merge such models in memory"):
        weight_files(folder)


def test_settings_differ_where_they_decide_what_is_computed():
    early = {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    now = {"embedding_dimension": 8, "pooling_mode": "cls", "include_prompt": True}
    assert list(different_settings(early, now)) == []
    assert list(different_settings(early, now | {"pooling_mode": "mean"})) == [
        ("pooling_mode", "cls", "mean")
    ]
    both = {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}
    assert list(different_settings(both, {"pooling_mode": ("cls", "max")})) == []
    assert list(different_settings(early, now | {"include_prompt": False})) == [
        ("include_prompt", True, False)
    ]
    assert list(different_settings({}, {"use_residual": True})) == [("use_residual", False, True)]
    assert list(different_settings({"dropout": 0.1}, {"dropout": 0.3})) == []


def test_modules_are_written_to_their_own_folders_after_the_trunk(tmp_path):
    layout = {
        "2_Dense/linear.weight": (torch.float32, (2,)),
        "a.weight": (torch.bfloat16, (2,)),
        "b.weight": (torch.float32, (2,)),
    }
    with WeightsWriter(tmp_path, layout) as writer:
        assert writer.names == ["b.weight", "a.weight", "2_Dense/linear.weight"]
        for name in writer.names:
            writer.append(name, torch.ones(2, dtype=layout[name][0]))
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")} == {
        "model.safetensors",
        "2_Dense/model.safetensors",
    }
    assert module_of("a.weight") == ""
