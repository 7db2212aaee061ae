"""Experts that are fused in one checkpoint and separate in the other."""

from __future__ import annotations

import copy

import pytest
import safetensors
import torch
import transformers

import saft
from saft.errors import UserError
from saft.files.checkpoint import write_tensors
from saft.merge import merge
from saft.merging.inputs.alignment import fitted
from saft.merging.inputs.source import read_source
from saft.merging.merge_config import MergeConfig

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 11,
}
MODELS = {
    "mixtral": (transformers.MixtralModel, transformers.MixtralConfig(**SMALL, num_local_experts=3)),
    "qwen3": (
        transformers.Qwen3MoeModel,
        transformers.Qwen3MoeConfig(
            **SMALL, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, head_dim=8
        ),
    ),
}


@pytest.fixture(params=MODELS)
def folders(request, tmp_path):
    """A base as the hub has it, and a model in both forms: by save_pretrained, and by its state dict."""
    kind, config = MODELS[request.param]
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "base")
    model = kind(config)
    model.save_pretrained(tmp_path / "separate")
    (tmp_path / "fused").mkdir()
    write_tensors(tmp_path / "fused" / "model.safetensors", model.state_dict())
    return tmp_path


def read(folder):
    return read_source(str(folder), folder)


def test_a_fused_model_has_each_expert_under_the_bases_name(folders):
    base, separate = read(folders / "base"), read(folders / "separate")
    fused = fitted(base, read(folders / "fused"))
    assert any("experts.2" in name for name in base.headers)
    assert fused.headers.keys() == separate.headers.keys() == base.headers.keys()
    for name in base.headers:
        assert fused.tensor(name).equal(separate.tensor(name)), name


def test_both_forms_merge_to_the_same_bits_and_load(folders):
    for form in ("fused", "separate"):
        config = MergeConfig("task_arithmetic", str(folders / "base"), [str(folders / form)], scaling=0.5)
        merge(config, folders / f"merged-{form}")
    fused, separate = (folders / f"merged-{form}" / "model.safetensors" for form in ("fused", "separate"))
    assert fused.read_bytes() == separate.read_bytes()
    _, found = transformers.AutoModel.from_pretrained(folders / "merged-fused", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]


@pytest.mark.parametrize("method", ["breadcrumbs", "dare"])
def test_modules_merge_to_the_bits_of_their_folders(folders, method):
    """Each expert is a matrix of its own there: in memory all of a layer were one tensor, of three dimensions."""
    base, model = folders / "base", folders / "separate"
    merge(MergeConfig(method, str(base), [str(model)], seed=1), folders / "merged")
    with safetensors.safe_open(folders / "merged" / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    loaded = {name: transformers.AutoModel.from_pretrained(folders / name) for name in ("base", "separate")}
    as_they_were = {key: value.clone() for key, value in loaded["base"].state_dict().items()}
    filled = copy.deepcopy(loaded["base"])
    merged = saft.merge_models(loaded["base"], [loaded["separate"]], method, seed=1)
    for other in (
        saft.merge_models(loaded["base"], [str(model)], method, seed=1),
        saft.merge_models(str(base), [loaded["separate"]], method, out=filled, seed=1),
    ):
        assert all(value.equal(merged.state_dict()[name]) for name, value in other.state_dict().items())
    merged.save_pretrained(folders / "saved")
    with safetensors.safe_open(folders / "saved" / "model.safetensors", "pt") as file:
        assert file.keys() == list(stored)
        assert all(file.get_tensor(name).equal(value) for name, value in stored.items())
    assert all(value.equal(as_they_were[name]) for name, value in loaded["base"].state_dict().items())


def test_a_fused_base_names_the_form_that_its_models_need(folders):
    config = MergeConfig("average", str(folders / "fused"), [str(folders / "separate")])
    with pytest.raises(UserError, match=r"stores each expert by itself.*save_original_format=False"):
        merge(config, None, check_only=True)
