"""A merge in memory gives the bits of the merge of folders, and leaves its inputs as they are."""

from __future__ import annotations

import math
import threading

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import saft
from saft.cli import main
from saft.errors import UserError
from saft.merging import merge_models
from saft.merging.inputs.in_memory import OneAdapter
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod

IN_MEMORY = [
    name
    for name, kind in METHODS.items()
    if not (kind.calibration or kind.needs_adapters or issubclass(kind, PerTaskMethod))
]
GIVEN = {"slerp": {"t": 0.3}}


def on_disk(base, models, out, method, **options):
    saft.merge(saft.MergeConfig(method, base, models, **options), out)
    return load_file(out / "model.safetensors")


def snapshot(*states):
    return [{name: tensor.clone() for name, tensor in state.items()} for state in states]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("method", IN_MEMORY)
def test_every_method_gives_the_bits_of_the_merge_of_folders(
    method, checkpoints, base_tensors, task_tensors, tmp_path
):
    folder, models = checkpoints
    count = int(min(METHODS.get(method).max_models, 3))
    tasks = list(models)[:count]
    options = {"parameters": GIVEN.get(method, {}), "seed": 7}
    before = snapshot(base_tensors, *task_tensors.values())
    merged = saft.merge_models(base_tensors, {t: task_tensors[t] for t in tasks}, method, **options)
    expected = on_disk(folder, {t: models[t] for t in tasks}, tmp_path / "out", method, **options)
    assert_same({name: merged[name] for name in expected}, expected)
    for old, now in zip(before, (base_tensors, *task_tensors.values()), strict=True):
        assert_same(old, now)


def test_keys_of_a_merge_file_mean_the_same(checkpoints, base_tensors, task_tensors, tmp_path):
    folder, models = checkpoints
    options = {
        "parameters": {"density": 0.3},
        "scaling": 0.7,
        "exclude": ["embeddings.*"],
        "lines": saft.merging.merge_config.Lines(),
        "dtype": "bfloat16",
    }
    merged = saft.merge_models(base_tensors, task_tensors, "ties", **options)
    assert_same(merged, on_disk(folder, models, tmp_path / "out", "ties", **options))


def test_modules_give_a_module_that_shares_nothing_with_them(berts):
    base, *models = berts
    states = [model.state_dict() for model in berts]
    before = snapshot(*states)
    merged = saft.merge_models(base, models, "task_arithmetic", scaling=0.5)
    assert type(merged) is type(base)
    assert merged.config.to_dict() == base.config.to_dict()
    assert not merged.training
    tau = [models[at].pooler.dense.weight - base.pooler.dense.weight for at in range(2)]
    expected = base.pooler.dense.weight + 0.5 * (tau[0] + tau[1])
    torch.testing.assert_close(merged.pooler.dense.weight, expected)
    assert all(weight.requires_grad and weight.is_leaf for weight in merged.parameters())
    theirs = {weight.data_ptr() for model in berts for weight in model.state_dict().values()}
    assert theirs.isdisjoint(weight.data_ptr() for weight in merged.state_dict().values())
    for old, now in zip(before, states, strict=True):
        assert_same(old, now)
    merged(input_ids=torch.tensor([[1, 2]])).last_hidden_state.sum().backward()


def test_a_folder_a_module_and_a_state_dict_may_be_mixed(tiny_model, berts):
    base, a, b = berts
    mixed = saft.merge_models(str(tiny_model), {"a": a, "b": b.state_dict()}, "ties")
    assert_same(mixed, saft.merge_models(base, {"a": a, "b": b}, "ties").state_dict())


def test_dtype_and_device_may_be_those_of_torch():
    state = {"weight": torch.ones(2, 3)}
    options = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    assert saft.merge_models(state, [state], "average", **options)["weight"].dtype == torch.bfloat16


def test_tied_weights_stay_tied(tiny_gpt2):
    base, a = (transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2) for _ in range(2))
    with torch.no_grad():
        a.lm_head.weight += 0.5
    merged = saft.merge_models(base, [a], "average")
    assert merged.lm_head.weight is merged.transformer.wte.weight
    torch.testing.assert_close(merged.lm_head.weight, a.lm_head.weight)


def test_buffers_are_the_base_s(berts):
    base, model = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    model[1].num_batches_tracked += 3
    model[1].running_mean += 1
    merged = saft.merge_models(base, [model], "average")
    assert merged[1].num_batches_tracked == 0
    assert merged[1].running_mean.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("teis", {}, "unknown merge method 'teis'; did you mean 'ties'"),
        ("ties", {"parameters": {"density": 2}}, "parameters of ties: density: "),
        (
            "ties",
            {"upload": "anna/merged"},
            "upload: is of a folder, and here is none; write one with saft.merge",
        ),
        ("ties", {"density": 0.2}, r"density: is a parameter of ties; write parameters=\{'density': 0.2\}"),
        ("ties", {"out_dtype": "float16"}, "out_dtype: unknown key; did you mean 'dtype'"),
        ("ties", {"paramters": {}}, "paramters: unknown key; did you mean 'parameters'"),
        ("emr", {}, "method: 'emr' gives more than one model; merge folders by it, with saft.merge"),
        (
            "fisher",
            {},
            "method: 'fisher' reads examples of each task; .* under 'Needs base, models; gives one model'",
        ),
        (
            "ties",
            {"adapter_rank": 2},
            "adapter_rank: is of a folder.*, or an adapter with saft.integrations.peft",
        ),
        ("ties", {"shard_size": "1MB"}, "shard_size: is of a folder, and here is none"),
        ("ties", {"output": {"name": "adapter", "rank": 2}}, "output: is of a folder, and here is none"),
        ("ties", {"interventions": {}}, "interventions: is of a folder, and here is none"),
        ("robust_merge", {}, "is not a LoRA adapter of the base <BertModel in memory>"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(berts, method, options, message):
    base, a, b = berts
    with pytest.raises(UserError, match=message):
        saft.merge_models(base, {"a": a, "b": b}, method, **options)


def test_the_heading_that_names_the_methods_is_there(capsys):
    assert main(["methods"]) == 0
    assert "Needs base, models; gives one model:" in capsys.readouterr().out


def test_a_model_that_does_not_fit_is_named(berts, tiny_gpt2):
    base, a, _ = berts
    other = transformers.AutoModel.from_pretrained(tiny_gpt2)
    with pytest.raises(UserError, match=r"models.x: <GPT2Model in memory> shares no tensor with the base"):
        saft.merge_models(base, {"a": a, "x": other}, "average")
    a.config.num_attention_heads = 4
    with pytest.raises(UserError, match=r"config of <BertModel in memory>: num_attention_heads is 4"):
        saft.merge_models(base, {"a": a}, "average")


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128])
def test_complex_tensors_are_the_bases_where_all_agree_and_else_refused(dtype):
    def model(weight, phase):
        return {"weight": torch.full((2,), weight), "phase": torch.tensor([1, phase]).to(dtype)}

    merged = saft.merge_models(model(1.0, 2j), [model(2.0, 2j)], "average")
    assert merged["weight"].tolist() == [2.0, 2.0]
    assert merged["phase"].to(torch.complex64).tolist() == [1, 2j]
    told = r"models.2: <state dict>: 'phase' differs from the base's, and is complex .* exclude: \["
    with pytest.raises(UserError, match=told) as caught:
        saft.merge_models(model(1.0, 2j), [model(2.0, 2j), model(2.0, 3j)], "average")
    assert "models.1" not in str(caught.value)
    kept = saft.merge_models(model(1.0, 2j), [model(2.0, 3j)], "average", exclude=["phase"])
    assert kept["phase"].to(torch.complex64).tolist() == [1, 2j]
    without = {"weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"models.1: <state dict> lacks 'phase', which the base"):
        saft.merge_models(model(1.0, 2j), [without], "average")


@pytest.mark.filterwarnings("ignore")  # of torch, at tensors of these kinds
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "is quantized, and codes"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "is nested"),
        (lambda: torch.eye(2).to_sparse(), "is sparse"),
        (lambda: torch.ones(2, device="meta"), "is on the device 'meta'"),
        (lambda: TwoTensor(torch.ones(2), torch.ones(2)), "is a TwoTensor and not a plain tensor"),
    ],
)
def test_tensors_that_have_no_plain_numbers_are_named(make, message):
    with pytest.raises(UserError, match=f"base: 'w': {message}"):
        saft.merge_models({"w": make()}, [{"w": torch.ones(2)}], "average")


def test_what_torch_wraps_modules_in_does_not_count():
    base, model = (
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)),
    )
    expected = saft.merge_models(base.state_dict(), [model], "average")
    by_layer = {f"{name[:2]}_orig_mod.{name[2:]}": tensor for name, tensor in model.state_dict().items()}
    wholly = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    fsdp = {f"_fsdp_wrapped_module.{name}": tensor for name, tensor in model.state_dict().items()}
    for wrapped in (by_layer, wholly, fsdp):
        merged = saft.merge_models(base.state_dict(), [wrapped], "average")
        assert all(merged[name].equal(tensor) for name, tensor in expected.items())
    merged = saft.merge_models(by_layer, [base], "average")
    assert merged.keys() == by_layer.keys()  # it goes back into the compiled module


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_is_told_before_the_merge(monkeypatch):
    base = Locked()
    monkeypatch.setattr(merge_models, "fill", None)
    with pytest.raises(UserError, match="base: cannot be copied; give a module to fill as out"):
        saft.merge_models(base, [nn.Linear(2, 2)], "average")
    monkeypatch.undo()
    assert saft.merge_models(base, [Locked()], "average", out=base) is base


class Copied(nn.Linear):
    """Copies itself in a way of its own, with its weights, as scripted modules do."""

    copies = 0

    def __deepcopy__(self, memo):
        Copied.copies += 1
        other = Copied(self.in_features, self.out_features)
        other.load_state_dict(self.state_dict())
        return other


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_is_copied_once_and_its_copy_has_the_merged_weights_however_it_copies_itself(dtype):
    base, model = Copied(2, 2), nn.Linear(2, 2)
    Copied.copies = 0
    merged = saft.merge_models(base, [model], "average", dtype=dtype)
    assert Copied.copies == 1
    expected = saft.merge_models(base.state_dict(), [model], "average", dtype=dtype)
    assert_same(merged.state_dict(), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_scripted_module_has_the_merged_weights():
    base, model = nn.Linear(2, 2), nn.Linear(2, 2)
    merged = saft.merge_models(torch.jit.script(base), [model], "average")
    x = torch.ones(1, 2)
    assert torch.equal(merged(x), saft.merge_models(base, [model], "average")(x))


def test_an_adapter_by_itself_is_no_base(berts):
    with pytest.raises(UserError, match="base: is an adapter"):
        saft.merge_models(OneAdapter(berts[0], "a"), [berts[1]], "average")


LIST = r"give \[model\], or \{task: model\}"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), f"models: is a single model, a Sequential; {LIST}"),
        (nn.Linear(2, 2).state_dict(), f"models: is a single model, a state dict; {LIST}"),
        (OneAdapter(nn.Linear(2, 2), "a"), f"models: is a single model, a OneAdapter; {LIST}"),
        ("runs", f"models: is a single model, a str; {LIST}"),
        (None, r"models: is None; give \{task: model\}, or a list of models"),
        (torch.ones(2), r"models: is tensor.*; give \{task: model\}, or a list of models"),
        ({"a": None}, r"models.a: is None, and neither a module nor a state dict, \{name: tensor\}"),
        ([nn.Linear(2, 2), 7], "models.2: is 7, and neither a module nor a state dict"),
        (
            [{"model": nn.Linear(2, 2).state_dict(), "epoch": 1}],
            r"models.1: 'model': is a state dict itself; give that one: checkpoint\['model'\]",
        ),
        ([{0: torch.ones(2)}], "models.1: 0: is not the name of a tensor"),
        ([{"weight": [1.0]}], r"models.1: 'weight': is \[1.0\], and not a tensor"),
        ([], "models: is empty"),
    ],
)
def test_what_is_no_list_of_models_is_refused(models, message):
    with pytest.raises(UserError, match=message):
        saft.merge_models(nn.Linear(2, 2), models, "average")


def test_what_is_no_model_is_refused_as_base_and_to_fill():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"^base: is None, and neither .*\nmodels.2: is 3, and neither"):
        saft.merge_models(None, [b, 3], "average")
    with pytest.raises(UserError, match=r"^base: 'weight': is 3, and not a tensor"):
        saft.merge_models({"weight": 3}, [b], "average")
    with pytest.raises(UserError, match=r"^out: is 'folder', and neither a module nor a state dict"):
        saft.merge_models(a, [b], "average", out="folder")
    with pytest.raises(UserError, match=r"^out: dict has no tensor"):
        saft.merge_models(a, [b], "average", out={})


def test_what_is_not_finite_is_told_by_its_place_in_the_models():
    ones = {"weight": torch.ones(2)}
    damaged = {"weight": torch.tensor([1.0, math.nan])}
    with pytest.raises(UserError, match=r"^models.b: <state dict>: 'weight' holds NaN .* \(1 of 2"):
        saft.merge_models(ones, {"a": ones, "b": damaged}, "average")
    with pytest.raises(UserError, match=r"^base: <state dict>: 'weight' holds NaN"):
        saft.merge_models(damaged, {"a": ones}, "average")
