"""peft's adapters as inputs, compared with what peft itself merges into the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from saft.errors import UserError
from saft.files.tensorfile import view
from saft.merging.inputs import lora_change
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit import file as mergekit
from saft.merging.outputs.record import write_merge
from saft.merging.stream import engine

# peft's own business with transformers, and with the models of these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
]


def llama(**more):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, "tie_word_embeddings": False, **more}))


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False))


def adapt(model, folder, seed=1, **settings):
    """Save an adapter with random numbers in both factors; return what peft makes of base and adapter."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 3, "lora_alpha": 5, **settings}))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder)
    return {
        name: tensor.clone().contiguous() for name, tensor in adapted.merge_and_unload().state_dict().items()
    }


@pytest.fixture
def base(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


EVERYTHING_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": EVERYTHING_LINEAR, "use_rslora": True},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 4},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 9, "down_proj": 1},
        },
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_the_weights_are_those_that_peft_merges(base, tmp_path, settings):
    expected = adapt(llama(), tmp_path / "adapter", **settings)
    source = read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")
    assert source.headers.keys() == expected.keys()
    plain = load_file(tmp_path / "base" / "model.safetensors")
    for name, wanted in expected.items():
        torch.testing.assert_close(source.tensor(name), wanted, rtol=1e-5, atol=1e-6)
    assert sum(not plain[name].equal(wanted) for name, wanted in expected.items()) > 1


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_matrices_that_are_stored_transposed(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    targets = ["c_attn", "attn.c_proj", "c_fc"]  # c_proj of the attention is square
    expected = adapt(gpt2(), tmp_path / "adapter", target_modules=targets)
    source = read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")
    for name in source.headers:
        torch.testing.assert_close(source.tensor(name), expected[name], rtol=1e-5, atol=1e-6)


def test_biases_that_were_trained_with_it_come_along(tmp_path):
    model = llama(attention_bias=True)
    model.save_pretrained(tmp_path / "base")
    expected = adapt(model, tmp_path / "adapter", target_modules=["q_proj"], bias="all")
    source = read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")
    for name in source.headers:
        torch.testing.assert_close(source.tensor(name), expected[name], rtol=1e-5, atol=1e-6)


def test_of_a_module_that_is_saved_whole_its_own_bias_counts(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path / "base")
    settings = {
        "target_modules": ["c_attn"],
        "modules_to_save": ["ln_f"],
        "fan_in_fan_out": True,
        "bias": "all",
    }
    expected = adapt(model, tmp_path / "adapter", **settings)
    assert any("original_module" in x for x in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    source = read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "base")
    for name in source.headers:
        torch.testing.assert_close(source.tensor(name), expected[name], rtol=1e-5, atol=1e-6)


def test_an_adapter_alone_is_of_the_base_and_merges_as_a_model_does(base, tmp_path):
    first = adapt(llama(), tmp_path / "one", target_modules=["q_proj"])
    second = adapt(llama(), tmp_path / "two", seed=2, target_modules=["q_proj", "up_proj"])
    other = tmp_path / "other"
    other.mkdir()
    save_file(second, other / "model.safetensors")
    models = [str(tmp_path / "one"), str(other), f"{base}+{tmp_path / 'two'}"]
    write_merge(check(MergeConfig("average", base, models)), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in merged.items():
        expected = (first[name] + 2 * second[name]) / 3
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    manifest = json.loads((tmp_path / "out" / "saft.json").read_text())
    read = {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"}  # its alpha counts too
    assert set(manifest["models"][0]["blake3"]) == read


def test_of_two_adapters_on_each_other_every_file_has_its_digest(base, tmp_path):
    adapt(llama(), tmp_path / "one", target_modules=["q_proj"])
    adapt(llama(), tmp_path / "two", seed=2, target_modules=["up_proj"])
    stacked = f"{base}+{tmp_path / 'one'}+{tmp_path / 'two'}"
    write_merge(check(MergeConfig("average", base, [stacked])), tmp_path / "out")
    digests = json.loads((tmp_path / "out" / "saft.json").read_text())["models"][0]["blake3"]
    files = {f"{tmp_path / name}/adapter_model.safetensors" for name in ("one", "two")}
    assert files < set(digests)
    assert len(digests) == 5
    assert digests[min(files)] != digests[max(files)]


def test_a_base_may_be_adapted_too_and_gives_its_config(base, tmp_path):
    expected = adapt(llama(), tmp_path / "one", target_modules=["q_proj"])
    adapted = f"{base}+{tmp_path / 'one'}"
    write_merge(check(MergeConfig("average", adapted, [adapted, adapted])), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert (tmp_path / "out" / "config.json").exists()


def test_half_precision_is_added_in_float32(tmp_path):
    model = llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    adapt(model, tmp_path / "adapter", target_modules=["q_proj"])
    source = read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    prefix = f"base_model.model.{name.removesuffix('.weight')}"
    delta = factors[f"{prefix}.lora_B.weight"].float() @ factors[f"{prefix}.lora_A.weight"].float() * (5 / 3)
    whole = load_file(tmp_path / "base" / "model.safetensors")[name].float() + delta
    assert source.headers[name].dtype == torch.float32
    torch.testing.assert_close(source.tensor(name), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora: True is more than plain LoRA"),
        ({"lora_bias": True}, "lora_bias: True is more than plain LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' may have moved the base's own weights"),
        ({"peft_type": "IA3"}, "is a IA3 adapter; of peft's adapters saft knows only LORA"),
        ({"kasa_config": {"beta": 1}}, "kasa_config: .* is more than plain LoRA"),
        ({"layer_replication": [[0, 1]]}, "layer_replication: .* is more than plain LoRA"),
        ({"target_parameters": ["experts"]}, "target_parameters: .* is more than plain LoRA"),
        ({"lora_alpha": None}, "lora_alpha: must be a number, but is None"),
        ({"alpha_pattern": {"q_proj": "two"}}, "q_proj: must be a number, but is 'two'"),
        ({"alpha_pattern": [1]}, "alpha_pattern: must be a mapping of modules to numbers"),
        ({"alpha_pattern": {"(q_proj": 2}}, "is not a name or a pattern that can be matched"),
        ({"alpha_pattern": {"(q*)*_proj": 2}}, "is not a name or a pattern that can be matched"),
        ({"lora_alpha": float("nan")}, "lora_alpha: must be a finite number, but is nan"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(base, tmp_path, settings, message):
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(UserError, match=message):
        read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda key: key.replace("q_proj", "q_porj"),
            r"changes '.*q_porj.weight'.*, which the base .* lacks: it has '.*; is the adapter of another",
        ),
        (lambda key: key.replace("self_attn.q_proj", "mlp.up_proj"), "which do not make the base's"),
        (lambda key: key.replace("lora_A.weight", "lora_magnitude_vector"), "does not belong to plain LoRA"),
        (
            lambda key: key.replace("layers.0.self_attn.q_proj.lora_A", "x.lora_A"),
            "needs both factors",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused_by_name(base, tmp_path, change, message):
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=message):
        read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")


def test_nan_in_an_adapter_is_told_of_the_adapters_file(base, tmp_path):
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: tensor / 0 for key, tensor in load_file(file).items()}, file)
    plan = check(MergeConfig("average", base, [str(tmp_path / "adapter")]))
    with pytest.raises(UserError) as caught:
        list(engine.stream(plan))
    assert caught.value.problems[0].startswith(f"{file}: 'model.layers.0.self_attn.q_proj.weight' holds NaN")
    assert len(caught.value.problems) == 1


def test_tied_embeddings_are_not_changed_by_an_adapter(tmp_path):
    model = llama(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    adapt(model, tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(
        UserError, match=r"embed_tokens', which the base ties to 'the head or the embeddings'"
    ):
        read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    del config["tie_word_embeddings"]  # transformers 4 leaves out what is its class's default
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"embed_tokens', which the base ties to"):
        read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")


def test_embeddings_of_a_model_without_a_head_are_tied_to_nothing(tmp_path):
    model = llama(tie_word_embeddings=True).model
    model.save_pretrained(tmp_path / "base")
    adapted = adapt(model, tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    read = read_input(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", "models.a")
    expected = adapted["embed_tokens.weight"]
    torch.testing.assert_close(read.tensor("embed_tokens.weight"), expected)


def test_places_without_an_adapter_are_said(base, tmp_path):
    with pytest.raises(UserError, match="holds no adapter"):
        read_input(f"{base}+{base}", "models.a")
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"base: .* holds only an adapter; write CHECKPOINT\+ADAPTER"):
        check(MergeConfig("average", str(tmp_path / "adapter"), [base]))


def test_an_adapter_of_another_base_is_said_once(tmp_path, base):
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key.replace("model.layers", "h"): tensor for key, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError) as caught:
        read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")
    assert len(caught.value.problems) == 1


def test_a_folder_with_interventions_is_refused_since_they_would_be_lost(base, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(Path(base) / name, tmp_path / "out" / name)
    (tmp_path / "out" / "saft.json").write_text('{"interventions": {"rank": 1}}')
    with pytest.raises(UserError, match=r"models.out: .*out: holds interventions for each task, which"):
        check(MergeConfig("average", base, [str(tmp_path / "out")]))


def test_mergekits_file_knows_the_notation_too(base, tmp_path):
    first = adapt(llama(), tmp_path / "one", target_modules=["q_proj"])
    second = adapt(llama(), tmp_path / "two", seed=2, target_modules=["up_proj"])
    listed = [
        {"model": f"{base}+{tmp_path / name}", "parameters": {"weight": weight}}
        for name, weight in (("one", 0.5), ("two", 2.0))
    ]
    case = {"merge_method": "task_arithmetic", "base_model": base, "models": listed}
    plan = check(mergekit.read(case, "merge.yaml")[0])
    start = load_file(tmp_path / "base" / "model.safetensors")
    for name, vector in engine.stream(plan):
        expected = 0.5 * (first[name] - start[name]) + 2 * (second[name] - start[name])
        torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-6)


def test_only_tensors_that_are_read_are_made(base, tmp_path, monkeypatch):
    """The delta of one tensor at a time: nothing else of the adapter is multiplied, and nothing is kept."""
    adapt(llama(), tmp_path / "one", target_modules=["q_proj", "up_proj"])
    source = read_input(f"{base}+{tmp_path / 'one'}", "models.a")
    read = []
    monkeypatch.setattr(lora_change, "view", lambda header: read.append(header) or view(header))
    source.tensor("model.layers.0.self_attn.q_proj.weight")
    source.tensor("model.layers.0.self_attn.k_proj.weight")
    assert [header.shape for header in read] == [(8, 3), (3, 8)]


def test_the_adapters_name_may_be_left_in_its_keys(base, tmp_path):
    adapt(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    expected = read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")
    name = "model.layers.0.self_attn.q_proj.weight"
    whole = expected.tensor(name)
    save_file({key.replace(".weight", ".default.weight"): x for key, x in load_file(file).items()}, file)
    assert read_input(f"{base}+{tmp_path / 'adapter'}", "models.a").tensor(name).equal(whole)
