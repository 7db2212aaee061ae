"""Models out of a folder that keeps a part per task: of one task, and the whole mixture."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import saft
from saft.errors import UserError
from saft.files.checkpoint import write_tensors
from saft.merge import MergeConfig, merge
from saft.merging.inputs import task_parts
from saft.merging.methods.smile import Smile
from saft.mixture import SmileLinear, load_mixture
from saft.model_config import ModelConfig
from saft.models import load_task, load_trunk
from tests.oracles import parts as oracle

METHODS = ["emr", "tall_masks", "smile"]


def experts(base, folder, tasks=("colour", "size"), spread=0.05):
    """Save models that lie around the one in `base`, of its own class."""
    kind = getattr(transformers, transformers.AutoConfig.from_pretrained(base).architectures[0])
    found = {}
    for seed, task in enumerate(tasks):
        torch.manual_seed(seed)
        model = kind.from_pretrained(base)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * spread
        model.save_pretrained(folder / task)
        found[task] = str(folder / task)
    return found


@pytest.fixture(scope="module")
def merged(tiny_model, tmp_path_factory):
    """Method -> folder, of two models around the tiny one."""
    folder = tmp_path_factory.mktemp("merged")
    models = experts(tiny_model, folder)
    for method in METHODS:
        merge(MergeConfig(method, str(tiny_model), models), folder / method)
    return folder


INPUTS = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def outputs(model):
    with torch.no_grad():
        return model(**INPUTS).last_hidden_state


@pytest.mark.parametrize("method", METHODS)
def test_a_tasks_model_is_plain_and_has_the_weights_of_the_formula(merged, method, tmp_path):
    model = saft.load_task(merged / method, "size")
    assert type(model) is transformers.BertModel
    assert not model.training
    expected = dict(task_parts.read(merged / method).task_tensors("size"))
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in expected.items():
        assert model.state_dict()[name].equal(tensor)
    model.save_pretrained(tmp_path / "plain")
    assert outputs(transformers.AutoModel.from_pretrained(tmp_path / "plain")).equal(outputs(model))


def test_smile_of_full_rank_gives_the_fine_tuned_layers_back(merged, tiny_model):
    model = load_task(merged / "smile", "colour").state_dict()
    tuned = transformers.AutoModel.from_pretrained(merged / "colour").state_dict()
    base = transformers.AutoModel.from_pretrained(tiny_model).state_dict()
    for name, weight in model.items():
        linear = weight.dim() == 2 and "embeddings" not in name
        bias = name.endswith("bias") and "LayerNorm" not in name
        torch.testing.assert_close(weight, (tuned if linear or bias else base)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_reader_refuses_the_folder(merged, method):
    with pytest.raises(OSError, match=r"no file named model.safetensors"):
        transformers.AutoModel.from_pretrained(merged / method)
    with pytest.raises(
        UserError, match=r"holds a part per task, and no single model; load .* saft.load_task\("
    ):
        load_trunk(ModelConfig(str(merged / method)))


def test_the_trunk_of_a_task_is_its_model_in_float32(merged):
    trunk = load_trunk(ModelConfig(str(merged / "emr")), "size")
    assert outputs(trunk).equal(outputs(load_task(merged / "emr", "size")))


def test_a_folder_with_one_model_and_a_task_without_a_part_are_told(tiny_model, merged):
    with pytest.raises(UserError, match=r"holds no saft.json"):
        load_task(tiny_model, "size")
    with pytest.raises(UserError, match=r"has no part for 'sice'; did you mean 'size'\?"):
        load_task(merged / "emr", "sice")


def test_architectures_with_a_head_and_tied_weights_load_as_they_are(tmp_path):
    torch.manual_seed(0)
    settings = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(settings)
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path / "base")
    models = experts(tmp_path / "base", tmp_path, spread=0.1)
    merge(MergeConfig("emr", str(tmp_path / "base"), models), tmp_path / "out")
    found = load_task(tmp_path / "out", "size")
    assert type(found) is transformers.GPT2LMHeadModel
    assert found.lm_head.weight is found.transformer.wte.weight
    assert found.generation_config.max_new_tokens == 7
    trunk = load_task(tmp_path / "out", "size", transformers.AutoModel)
    assert type(trunk) is transformers.GPT2Model
    assert trunk.wte.weight.equal(found.lm_head.weight)


def test_the_dtype_of_the_merge_is_the_models(tiny_model, merged, tmp_path):
    models = {task: str(merged / task) for task in ("colour", "size")}
    merge(MergeConfig("smile", str(tiny_model), models, dtype="bfloat16"), tmp_path / "out")
    assert load_task(tmp_path / "out", "size").dtype == torch.bfloat16
    assert outputs(load_mixture(tmp_path / "out")).isfinite().all()


def test_weights_that_the_architecture_needs_but_the_folder_lacks_are_told(merged):
    with pytest.raises(UserError, match=r"lacks the weights of classifier.bias, .* give kind"):
        load_task(merged / "emr", "size", transformers.AutoModelForSequenceClassification)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("gate_rank", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_the_equations(top_k, gate_rank, bias):
    torch.manual_seed(top_k)
    base = nn.Linear(7, 5, bias=bias)
    tuned = base.weight.detach() + torch.randn(3, 5, 7)
    biases = torch.randn(3, 5)
    method = Smile(rank=2, gate_rank=gate_rank, top_k=top_k)
    found = [method._decomposed(weight - base.weight.detach()) for weight in tuned]
    pieces = {name: torch.stack([piece[name] for piece in found]) for name in ("U", "SV", "router")}
    if bias:
        pieces["bias"] = biases - base.bias.detach()
    layer = SmileLinear(base, pieces, top_k, scaling=0.7)
    x = torch.randn(2, 4, 7)
    y = layer(x)
    assert y.shape == (2, 4, 5)
    own = base.bias.detach().numpy() if bias else None
    for token, result in zip(x.view(-1, 7), y.view(-1, 5), strict=True):
        expected = oracle.smile(
            token.numpy(),
            base.weight.detach().numpy(),
            own,
            tuned.numpy(),
            biases.numpy(),
            2,
            gate_rank,
            top_k,
            0.7,
        )
        torch.testing.assert_close(result.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_a_layer_takes_a_batch_of_no_example_as_a_linear_layer_does():
    eye = torch.eye(2).unsqueeze(0)
    layer = SmileLinear(nn.Linear(2, 3, bias=False), {"U": torch.ones(1, 3, 2), "SV": eye, "router": eye}, 1)
    assert layer(torch.empty(0, 5, 2)).shape == (0, 5, 3)


def test_the_mixture_runs_and_differs_from_the_base_and_from_each_task(merged, tiny_model):
    mixture = saft.load_mixture(merged / "smile")
    count = sum(isinstance(module, SmileLinear) for module in mixture.modules())
    linear = [
        m for m in transformers.AutoModel.from_pretrained(tiny_model).modules() if isinstance(m, nn.Linear)
    ]
    assert count == len(linear)
    found = outputs(mixture)
    assert found.isfinite().all()
    for other in (load_task(merged / "smile", "size"), transformers.AutoModel.from_pretrained(tiny_model)):
        assert not torch.allclose(found, outputs(other), atol=1e-3)


def test_the_mixture_of_one_task_is_that_task(merged, tiny_model, tmp_path):
    models = {"size": str(merged / "size")}
    merge(MergeConfig("smile", str(tiny_model), models), tmp_path / "out")
    expected = outputs(load_task(tmp_path / "out", "size"))
    torch.testing.assert_close(outputs(load_mixture(tmp_path / "out")), expected, rtol=1e-4, atol=1e-5)


def test_the_mixtures_state_survives_a_file_and_gradients_reach_every_expert(merged, tmp_path):
    mixture = load_mixture(merged / "smile")
    before = outputs(mixture)
    mixture(**INPUTS).last_hidden_state.square().sum().backward()
    layer = mixture.encoder.layer[0].attention.self.query
    assert layer.U.grad.count_nonzero() > 0
    with torch.no_grad():
        for weight in mixture.parameters():
            weight += 0.01
    assert not outputs(mixture).equal(before)
    write_tensors(tmp_path / "state.safetensors", mixture.state_dict())
    other = load_mixture(merged / "smile")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert outputs(other).equal(outputs(mixture))
    with pytest.raises(UserError, match="save_pretrained would leave out the experts"):
        mixture.save_pretrained(tmp_path / "plain")


def test_a_folder_of_masks_is_no_mixture(merged):
    with pytest.raises(UserError, match="was merged by emr, whose parts are not experts"):
        load_mixture(merged / "emr")


def test_experts_for_what_is_no_linear_layer_are_told_with_the_cure(tmp_path):
    torch.manual_seed(0)
    settings = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2Model(settings).save_pretrained(tmp_path / "base")
    models = experts(tmp_path / "base", tmp_path)
    merge(MergeConfig("smile", str(tmp_path / "base"), models), tmp_path / "out")
    with pytest.raises(UserError, match=r"holds experts for 'h.0.attn.c_attn.weight', .* a Conv1D there"):
        load_mixture(tmp_path / "out")
    assert load_task(tmp_path / "out", "size").dtype == torch.float32


def test_an_architecture_that_transformers_lacks_is_told(merged, tmp_path):
    shutil.copytree(merged / "emr", tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["Nonsense"]}))
    with pytest.raises(UserError, match="transformers has no architecture 'Nonsense'; give kind"):
        load_task(tmp_path / "out", "size")
    assert load_task(tmp_path / "out", "size", transformers.AutoModel)
