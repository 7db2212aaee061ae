"""Adapters that a peft model holds are merged as their folders are, into an adapter or into the base."""

from __future__ import annotations

import copy
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import saft
from saft.errors import UserError
from saft.integrations.peft import merge_adapters, merge_into_base
from saft.merging.inputs import in_memory
from saft.merging.inputs.in_memory import OneAdapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out"),
]
IDS = torch.tensor([[3, 4, 5]])


def with_adapters(base, targets, **more):
    """Return a model with the adapters a and b, and a base of its own."""
    model = None
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **more)
        if model is None:
            model = peft.PeftModel(AutoModelForCausalLM.from_pretrained(base), settings, name)
        else:
            model.add_adapter(name, settings)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.mul_(0.3)
    return model.eval()


def saved(model, folder):
    """Write each adapter as peft does, and return {name: folder}."""
    model.save_pretrained(folder)
    return {name: str(folder / name) for name in model.peft_config}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("method", ["ties", "knots", "robust_merge"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_into_the_base_gives_the_bits_of_the_merge_of_folders(kind, method, tiny_llama, tiny_gpt2, tmp_path):
    base, targets = {"llama": (tiny_llama, ["q_proj", "down_proj"]), "gpt2": (tiny_gpt2, ["c_attn"])}[kind]
    model = with_adapters(base, targets)
    config = saft.MergeConfig(method, str(base), saved(model, tmp_path / "adapters"))
    saft.merge(config, tmp_path / "out")
    merged = merge_into_base(model, method)
    assert type(merged) is type(AutoModelForCausalLM.from_pretrained(base))
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert_same({name: merged.state_dict()[name] for name in expected}, expected)


def test_by_changes_the_new_adapter_is_the_one_of_the_merge_of_folders(tiny_llama, tmp_path):
    model = with_adapters(tiny_llama, ["q_proj", "down_proj"])
    folders = saved(model, tmp_path / "adapters")
    before = state(model)
    fit = merge_adapters(model, "task_arithmetic", scaling=0.5, rank=6)
    assert fit.overall < 1e-5  # the sum of two changes of rank 3
    assert model.active_adapters == ["one"]
    now = state(model)
    assert_same({name: now[name] for name in before}, before)

    options = {"scaling": 0.5, "adapter_rank": 6}
    saft.merge(saft.MergeConfig("task_arithmetic", str(tiny_llama), folders, **options), tmp_path / "out")
    expected = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert_same(peft.get_peft_model_state_dict(model, adapter_name="merged"), expected)

    model.set_adapter("merged")
    out = model(IDS).logits
    sum_of_both = saft.merge_models(
        AutoModelForCausalLM.from_pretrained(tiny_llama),
        {name: OneAdapter(model, name) for name in ("one", "two")},
        "task_arithmetic",
        scaling=0.5,
    ).eval()
    torch.testing.assert_close(out, sum_of_both(IDS).logits, rtol=1e-4, atol=1e-5)


def test_where_the_adapters_are_is_looked_for_once_an_input(tiny_llama, monkeypatch):
    model, looked = with_adapters(tiny_llama, ["q_proj", "down_proj"]), []
    look = in_memory._adapters
    monkeypatch.setattr(in_memory, "_adapters", lambda model: looked.append(model) or look(model))
    merge_adapters(model, "linear", rank=2)
    assert len(looked) == 3  # the base and two adapters


@pytest.mark.parametrize("by", ["change", "factors"])
def test_biases_that_adapters_share_are_refused(tiny_llama, by):
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    settings = peft.LoraConfig(r=3, target_modules=["q_proj"], bias="lora_only")
    model = peft.PeftModel(base, settings, "one")  # peft takes only one adapter with biases
    with pytest.raises(UserError, match="bias: 'lora_only': its biases are in the model"):
        merge_adapters(model, "linear", by=by)


def test_a_rank_beyond_that_of_the_matrices_becomes_theirs(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj", "down_proj"])
    widest = max(min(x.shape) for name, x in state(model).items() if "base_layer" in name)
    fit = merge_adapters(model, "task_arithmetic", rank=10**9)
    assert fit.rank == model.peft_config["merged"].r == widest
    assert fit.overall < 1e-5


def test_the_rank_is_the_greatest_that_any_module_has(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj", "down_proj"], rank_pattern={"down_proj": 5})
    fit = merge_adapters(model, "task_arithmetic", ["one"], scaling=1.0)
    assert fit.overall < 1e-5
    assert model.peft_config["merged"].r == 5


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_trained_is_so_afterwards(trained, tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj"])
    model.set_adapter("two", inference_mode=not trained)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    merge_adapters(model, "average")
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: asks for name, asks in after.items() if ".merged." not in name} == before
    assert any(before.values()) == any(after.values()) == trained
    assert not any(asks for name, asks in after.items() if ".merged." in name)


def test_by_factors_each_factor_is_merged(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj", "down_proj"])
    one, two = (peft.get_peft_model_state_dict(model, adapter_name=name) for name in ("one", "two"))
    assert merge_adapters(model, "linear", by="factors", parameters={"weights": [0.25, 0.75]}) is None
    merged = peft.get_peft_model_state_dict(model, adapter_name="merged")
    assert merged.keys() == one.keys()
    root = 2.0**0.5  # of alpha / rank
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, root * (0.25 * one[key] + 0.75 * two[key]))
    settings = model.peft_config["merged"]
    assert (settings.r, settings.lora_alpha) == (3, 3)


def test_by_factors_ranks_may_differ_from_module_to_module(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj", "down_proj"], rank_pattern={"q_proj": 2})
    merge_adapters(model, "average", by="factors", name="both")
    shapes = {k: x.shape for k, x in peft.get_peft_model_state_dict(model, adapter_name="both").items()}
    own = {k: x.shape for k, x in peft.get_peft_model_state_dict(model, adapter_name="one").items()}
    assert shapes == own
    model.set_adapter("both")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["both"] == 1.0


def test_by_factors_a_module_may_be_called_as_the_end_of_another():
    block = torch.nn.ModuleDict({"query": torch.nn.Linear(6, 6)})
    base = torch.nn.ModuleDict({"query": torch.nn.Linear(6, 6), "block": block})
    settings = peft.LoraConfig(r=3, target_modules=["query"], rank_pattern={"^query": 2})
    model = peft.PeftModel(base, settings, "one")
    merge_adapters(model, "average", by="factors")
    one, merged = (peft.get_peft_model_state_dict(model, adapter_name=name) for name in ("one", "merged"))
    assert {key: x.shape for key, x in merged.items()} == {key: x.shape for key, x in one.items()}


def test_a_peft_model_counts_as_its_active_adapter(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj"])
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.set_adapter("two")
    merged = saft.merge_models(base, {"x": model}, "task_arithmetic", scaling=1.0)
    assert_same(
        state(merged),
        state(saft.merge_models(base, {"x": OneAdapter(model, "two")}, "task_arithmetic", scaling=1.0)),
    )
    torch.testing.assert_close(merged.eval()(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
    # The module that peft has changed is the base, without its adapters.
    again = saft.merge_models(model.base_model.model, {"x": model}, "task_arithmetic", out=base, scaling=1.0)
    assert_same(state(again), state(merged))


def test_whole_tensors_that_an_adapter_saves_are_merged(tiny_llama, tmp_path):
    model = with_adapters(tiny_llama, ["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["two"].weight += 1
    folders = saved(model, tmp_path / "adapters")
    saft.merge(saft.MergeConfig("average", str(tiny_llama), folders), tmp_path / "out")
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert_same(state(merge_into_base(model, "average")), expected)


def test_mistakes_are_told_and_leave_the_model_as_it_was(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj"])
    before = state(model)
    for arguments, message in (
        ({"adapters": ["one", "tow"]}, "adapters: there is no 'tow'; did you mean 'two'"),
        ({"adapters": ["one", "one"]}, "adapters: 'one' is given 2 times; name each once"),
        ({"adapters": "one"}, r"adapters: is 'one'; give a list of names, such as \['one', 'two'\]"),
        ({"adapters": 1}, "adapters: is 1; give a list of names"),
        ({"adapters": [1]}, "adapters: 1 is not a name"),
        ({"adapters": []}, "adapters: there is none to merge"),
        ({"name": "two"}, "name: the model has an adapter 'two' already"),
        ({"name": "a.b"}, "name: torch takes no module called 'a.b'; choose another, without a dot"),
        ({"name": ""}, "name: torch takes no module called ''"),
        ({"name": "keys"}, "name: torch takes no module called 'keys'"),
        ({"name": 3}, "name: must be a text, but is 3"),
        ({"rank": 0}, "rank: must be at least 1, but is 0"),
        ({"rank": True}, "rank: must be a whole number of at least 1, but is True"),
        ({"rank": 10**12}, "rank: must be at most 1000000000, but is 1000000000000"),
        ({"rank": 1.5}, "rank: must be a whole number of at least 1, but is 1.5"),
        ({"by": "factor"}, "by: unknown 'factor'; did you mean 'factors'"),
        ({"by": "factors", "rank": 2}, "rank: by factors it is that of the adapters"),
        ({"parameters": {"density": 2}}, "parameters of ties: density"),
    ):
        with pytest.raises(UserError, match=message):
            merge_adapters(model, "ties", **arguments)
    with pytest.raises(UserError, match="by: 'robust_merge' merges adapters by their changes; leave by="):
        merge_adapters(model, "robust_merge", by="factors")
    with pytest.raises(UserError, match="base: holds adapters, which would stay"):
        saft.merge_models(model, {"x": model}, "average")
    with pytest.raises(UserError, match=r"models.x: there is no adapter 'tow'"):
        saft.merge_models(model.base_model.model, {"x": OneAdapter(model, "tow")}, "average", out={})
    assert_same(state(model), before)


@pytest.mark.parametrize("merge", [merge_adapters, merge_into_base, partial(merge_adapters, by="factors")])
def test_only_lora_adapters_of_a_peft_model_are_merged(merge, tiny_llama):
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with pytest.raises(UserError, match="model: is a LlamaForCausalLM; give a model of peft's, a PeftModel"):
        merge(base, "ties")
    settings = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    with pytest.raises(
        UserError, match="adapters: 'one' is of the kind IA3; only those of LoRA can be merged"
    ):
        merge(peft.PeftModel(base, settings, "one"), "ties")


@pytest.mark.parametrize("method", ["fisher", "regmean", "adamerging", "emr", "smile", "tall_masks"])
def test_methods_that_need_folders_are_refused_as_for_models(method, tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj"])
    before = state(model)
    for merge in (merge_adapters, merge_into_base, partial(merge_adapters, by="factors")):
        with pytest.raises(
            UserError, match=f"method: '{method}' .*; merge folders by it.*such as ties"
        ) as caught:
            merge(model, method)
        assert len(caught.value.problems) == 1
        with pytest.raises(UserError, match="adapter_rank: is of a folder"):
            merge(model, "ties", adapter_rank=2)
    assert_same(state(model), before)


def test_an_adapter_on_other_weights_or_already_added_is_refused(tiny_llama):
    model = with_adapters(tiny_llama, ["q_proj"])
    other = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.raises(
        UserError, match=r"models.x: <adapter 'one'.*was added to other weights.*'model.norm.weight'"
    ):
        saft.merge_models(other, {"x": model}, "average")
    model.merge_adapter(["one"])
    with pytest.raises(UserError, match=r"is added to the weights of .* already; call unmerge_adapter"):
        merge_adapters(model, "average")


@pytest.mark.parametrize(
    ("more", "message"),
    [({"use_dora": True}, "use_dora: True is more than plain LoRA"), ({"bias": "all"}, "bias: 'all'")],
)
def test_what_is_more_than_lora_is_refused(more, message, tiny_llama):
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], **more)
    model = peft.get_peft_model(copy.deepcopy(base), settings)
    with pytest.raises(UserError, match=message):
        saft.merge_models(base, {"x": model}, "average")


class Net(torch.nn.Module):
    """An embedding whose name does not tell that it is one, and a head."""

    def __init__(self):
        super().__init__()
        self.e, self.a, self.head = torch.nn.Embedding(7, 5), torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.a(self.e(tokens)))


def net(*settings):
    torch.manual_seed(0)
    model = peft.PeftModel(Net(), settings[0], "0")
    for at, more in enumerate(settings[1:], 1):
        model.add_adapter(str(at), more)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                weight.add_(torch.randn_like(weight) * 0.3)
    return model.eval()


def lora(*modules, rank=2, **more):
    return peft.LoraConfig(r=rank, target_modules=list(modules), **more)


def test_an_embedding_is_merged_into_an_adapter_whatever_its_name():
    model, tokens = net(lora("e", "a"), lora("e", "a", rank=1)), torch.arange(7)
    expected = merge_into_base(copy.deepcopy(model), "task_arithmetic", scaling=0.5)(tokens)
    merge_adapters(model, "task_arithmetic", scaling=0.5, rank=4)
    model.set_adapter("merged")
    torch.testing.assert_close(model(tokens), expected)
    merge_adapters(model, "average", ["merged"], name="again", rank=4)  # it is an adapter as any other
    assert model.peft_config["again"].r == 4


def test_a_module_that_is_saved_whole_is_refused_before_the_model_changes():
    model = net(lora("a", modules_to_save=["head"]), lora("a"))
    before = state(model)
    with pytest.raises(UserError, match=r"'head': is saved whole.*exclude=\[\"head\.\*\"\].*merge_into_base"):
        merge_adapters(model, "average")
    assert_same(state(model), before)
    assert "merged" not in model.peft_config
    merge_adapters(model, "average", exclude=["head.*"])
    assert "merged" in model.peft_config


@pytest.mark.parametrize("other", [lora("a", rank=3), lora("head"), lora("a", "head")])
def test_factors_of_other_forms_are_refused_with_what_to_do(other):
    with pytest.raises(
        UserError, match=r"by: by factors, adapters have one rank.*'0' and '1' differ at .*by='ch"
    ):
        merge_adapters(net(lora("a"), other), "average", by="factors")
