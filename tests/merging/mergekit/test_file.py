"""mergekit's merge file: its numbers, as mergekit itself computed them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from saft.cli import main
from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.mergekit import file as mergekit
from saft.merging.mergekit.keys import is_mergekit
from saft.merging.outputs.record import write_merge
from saft.merging.stream import engine

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"
CASES = sorted(file.stem for file in GOLDEN.glob("*.yaml"))


def mapping(name):
    return yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def merged(case, **more):
    """The weights that saft makes of a merge file, by name."""
    settings, _ = mergekit.read(case | more, "merge.yaml")
    plan = check(settings)
    found = {
        name: engine.apply(plan.base.tensor(name), vector, plan.scaling, plan.layout[name][0])
        for name, vector in engine.stream(plan)
    }
    assert found.keys() == plan.base.headers.keys()
    return found


@pytest.fixture(autouse=True)
def beside_the_models(monkeypatch):
    monkeypatch.chdir(GOLDEN)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_mergekits(name):
    expected = load_file(GOLDEN / f"{name}.safetensors")
    base = load_file(GOLDEN / "base" / "model.safetensors")
    found = merged(mapping(name))
    assert found.keys() == expected.keys()
    moved = 0
    for tensor, wanted in expected.items():
        assert found[tensor].dtype == wanted.dtype
        moved += not wanted.equal(base[tensor])
        torch.testing.assert_close(found[tensor], wanted, rtol=1e-5, atol=2e-6)
    assert moved >= 2


TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a"}, {"model": "b"}],
    "parameters": {"weight": 1.0, "density": 0.5},
}
REFUSED = [
    ({"merge_method": "dare-ties"}, "merge_method: unknown 'dare-ties'; did you mean 'dare_ties'?"),
    ({"merge_method": "passthrough"}, "passthrough: mergekit can do this; saft does not"),
    ({"merge_method": "pcb"}, "it is a method of saft's own: write `method: pcb`, `base: FOLDER`"),
    ({"merge_method": "nearswap", "parameters": {}}, "parameters.t: is required by nearswap"),
    ({"merge_method": "sce", "parameters": {"select_topk": 2}}, "parameters.select_topk: must be in"),
    ({"slices": []}, "slices: mergekit can do this; saft does not"),
    ({"modules": {}}, "modules: mergekit can do this; saft does not"),
    ({"experts": []}, "experts: mergekit can do this; saft does not"),
    ({"dtpye": "float32"}, "dtpye: unknown key; did you mean 'dtype'?"),
    ({"out_dtype": "flaot16"}, "out_dtype: unknown 'flaot16'; did you mean 'float16'"),
    ({"dtype": "flaot16", "out_dtype": "float16"}, "dtype: unknown 'flaot16'; did you mean"),
    ({"dtype": ["float16"]}, r"dtype: unknown '\['float16'\]'; did you mean 'float16'"),
    ({"models": [{"model": "base"}, {"model": "base"}]}, "models: are only the base, base; give those that"),
    ({"lambda": 0.3}, "lambda: belongs under `parameters:`"),
    ({"tokenizer_source": "union"}, "tokenizer_source: union: mergekit can do this"),
    ({"tokenizer": {"source": "base", "tokens": {}}}, "tokenizer.tokens: mergekit can do this"),
    ({"chat_template": "auto"}, "chat_template: mergekit can do this"),
    ({"base_model": None}, "base_model: ties needs it"),
    ({"models": []}, "models: must be a list"),
    (
        {"base_model": "org/m@v1"},
        "base_model: the version 'v1' of 'org/m': mergekit can do this; saft does not; fetch it by `hf download",
    ),
    ({"models": [{"model": 3}]}, r"models\[0\].model: must be a folder, a hub id, or a mapping"),
    ({"models": ["a"]}, r"models\[0\]: must be `model: FOLDER`"),
    ({"models": [{"model": "a", "weight": 1}]}, r"models\[0\]: unknown key 'weight'"),
    (
        {"parameters": {"weight": 1, "desnity": 1}},
        "parameters.desnity: unknown to ties; did you mean 'density'?",
    ),
    ({"parameters": {"density": 1}}, r"parameters.weight of models\[0\] \(a\): is required by ties"),
    ({"parameters": {"weight": []}}, "parameters.weight: is an empty list"),
    ({"parameters": {"weight": [{"filter": "mlp"}]}}, "has no value for the filter 'mlp'"),
    (
        {"parameters": {"weight": [{"fliter": "mlp", "value": 1}]}},
        "unknown key 'fliter'; did you mean 'filter'?",
    ),
    (
        {"models": [{"model": "a", "parameters": {"normalize": True}}]},
        r"models\[0\].parameters.normalize: is one for all models",
    ),
    ({"seeed": 1}, "seeed: unknown key; did you mean 'seed'?"),
    (
        {"merge_method": "nuslerp", "parameters": {"weight": 1, "nuslerp_row_wise": True}},
        "nuslerp_row_wise: True: mergekit can do this; saft does not",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_mergekit_does_not_know_or_saft_does_not_do_is_refused(change, message):
    with pytest.raises(UserError, match=f"ties.yaml: .*{message}"):
        mergekit.read(TIES | change, "ties.yaml")


def test_values_out_of_range_are_refused_by_the_files_own_name():
    for density, message in (
        (
            20,
            r"ties.yaml: parameters.density: must be in \(0, 1\], but is 20.0; it is a fraction, not percent",
        ),
        ("much", "ties.yaml: parameters.density: must be a number, but is 'much'"),
        ([0.5, 2], "ties.yaml: parameters.density: must be in .*, but is 2"),
        ([{"filter": "mlp", "value": 2.0}], "ties.yaml: parameters.density: must be in .*, but is 2"),
    ):
        case = TIES | {"parameters": {"weight": 1, "density": density}}
        with pytest.raises(UserError, match=message) as caught:
            mergekit.read(case, "ties.yaml")
        assert len(caught.value.problems) == 1
    filtered = [{"filter": "mlp", "value": 1.0}]
    settings, _ = mergekit.read(TIES | {"parameters": {"weight": filtered}}, "ties.yaml")
    with pytest.raises(UserError, match=r"varying, at 'lm_head\.weight': weights"):
        check(settings)


def test_a_model_may_be_a_mapping_of_its_parts():
    models = [{"model": {"model": {"path": "a"}}}, {"model": {"model": "b", "lora": {"path": "c"}}}]
    source = {"model": {"path": "base", "revision": None}}
    case = TIES | {"models": models, "base_model": {"model": "base"}, "tokenizer": {"source": source}}
    settings, _ = mergekit.read(case, "ties.yaml")
    assert (settings.base, settings.models) == ("base", ["a", "b+c"])
    linear = case | {
        "merge_method": "linear",
        "parameters": {"weight": 1},
        "models": [{"model": source}, models[0]],
    }
    assert mergekit.read(linear, "linear.yaml")[0].models == ["base", "a"]  # the base is found among them


def test_of_no_entry_sce_gives_the_base():
    base = load_file(GOLDEN / "base" / "model.safetensors")
    found = merged(TIES | {"merge_method": "sce", "parameters": {"select_topk": 0}})
    assert all(torch.equal(found[name], tensor) for name, tensor in base.items())


def test_what_changes_nothing_is_accepted_and_said():
    parameters = {"weight": "1e0", "int8_mask": True}
    case = TIES | {"parameters": parameters, "tokenizer_source": "base", "dtype": "torch.float32", "seed": 3}
    settings, notes = mergekit.read(case, "ties.yaml")
    assert settings.dtype == "float32"
    assert settings.seed == 3
    assert settings.parameters["weights"] == [1.0, 1.0]
    assert notes == ["ties.yaml: int8_mask changes no number and is ignored"]
    assert mergekit.read(TIES, "ties.yaml")[1] == []


def test_the_two_dialects_are_told_apart():
    assert is_mergekit(TIES)
    assert is_mergekit({"experts": []})
    assert is_mergekit({"base_model": "base", "models": []})
    assert not is_mergekit({"method": "ties", "base": "base"})
    assert not is_mergekit({"method": "ties", "merge_method": "ties"})


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_drop_as_much_and_keep_the_norm_of_each_tensor(method):
    """The random numbers cannot be mergekit's; the conventions are: kept shares, and the L1 norm."""
    case = TIES | {"merge_method": method, "models": [{"model": "a"}]}
    case["parameters"] = {"weight": 0.5, "density": 0.4, "lambda": 2.0, "normalize": False}
    base = load_file("base/model.safetensors")
    full = load_file("a/model.safetensors")
    kept = entries = 0
    for name, weights in merged(case).items():
        change, whole = weights - base[name], full[name] - base[name]
        kept, entries = kept + int(change.ne(0).sum()), entries + change.numel()
        torch.testing.assert_close(change.abs().sum(), whole.abs().sum(), rtol=1e-4, atol=1e-5)
        assert ((change == 0) | (change.sign() == whole.sign())).all()
    assert abs(kept / entries - 0.4) < 0.05
    again, other = merged(case), merged(case, seed=1)
    assert all(again[name].equal(weights) for name, weights in merged(case).items())
    assert any(not other[name].equal(again[name]) for name in again)


def test_della_keeps_large_entries_more_often():
    case = TIES | {"merge_method": "della_linear", "models": [{"model": "a"}]}
    case["parameters"] = {"weight": 1, "density": 0.5, "epsilon": 0.45}
    name = "model.layers.0.mlp.down_proj.weight"
    moved = load_file("a/model.safetensors")[name] - load_file("base/model.safetensors")[name]
    ranks = moved.abs().argsort(dim=1).argsort(dim=1)
    kept = torch.zeros(moved.shape)
    for seed in range(20):
        kept += merged(case, seed=seed)[name].ne(load_file("base/model.safetensors")[name])
    least, most = (float(kept[ranks == rank].mean() / 20) for rank in (0, moved.shape[1] - 1))
    assert abs(least - 0.05) < 0.06
    assert abs(most - 0.95) < 0.06


def test_a_merge_file_of_mergekits_is_written_and_described(tmp_path):
    settings, _ = mergekit.read(mapping("ties_filters"), "ties.yaml")
    plan = check(settings, tmp_path / "out")
    write_merge(plan, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, wanted in load_file("ties_filters.safetensors").items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=2e-6)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "from tensor to tensor differ weights, densities, coefficient" in text


def test_the_command_line_takes_either_dialect(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge", "ties_base_listed.yaml", str(out), "--parameters.density=0.9"]) == 0
    assert json.loads((out / "saft.json").read_text())["parameters"]["densities"] == [0.9] * 3
    assert "int8_mask changes no number" in capsys.readouterr().err
    assert main(["merge", "ties.yaml", str(tmp_path / "other"), "--parameters.desnity=0.9"]) == 2
    assert "did you mean 'density'?" in capsys.readouterr().err


def test_nearswap_and_arcee_fusion_merge_one_model_into_the_base():
    case = {"merge_method": "arcee_fusion", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    settings, _ = mergekit.read(case, "fusion.yaml")
    with pytest.raises(UserError, match="models: this method merges 1, but there are 2"):
        check(settings)


def test_a_parameter_in_the_place_of_a_key_is_told_where_it_belongs(tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    file.write_text("method: ties\nbase: base\nmodels: [a]\ndensity: 0.2\nout_dtype: float16\n")
    assert main(["merge", "--check", str(file)]) == 2
    told = capsys.readouterr().err
    assert "merge.yaml: density: belongs under `parameters:`" in told
    assert "merge.yaml: out_dtype: unknown key; did you mean 'dtype'?" in told
