"""Merges that are written as adapters, loaded by peft itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from saft.cli import main
from saft.errors import UserError
from saft.files.checkpoint import write_tensors
from saft.merge import merge
from saft.merging import time_estimate
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.outputs import adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True but the target module"),
]
LLAMA = LlamaConfig(
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
GPT2 = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=False)


def error_of(result):
    return result.written.manifest["adapter"]["relative error"]


@pytest.fixture
def models(tmp_path):
    """Return a function that writes a base, and models of which the tensors `moves` are other numbers."""

    def make(model, moves, count=2):
        torch.manual_seed(0)
        folders = [str(tmp_path / name) for name in ("base", "a", "b")[: count + 1]]
        model.save_pretrained(folders[0])
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for folder in folders[1:]:
            moved = {
                name: tensor + 0.1 * torch.randn_like(tensor) if moves(name, tensor) else tensor
                for name, tensor in start.items()
            }
            model.load_state_dict(moved)
            model.save_pretrained(folder)
        return folders[0], folders[1:]

    return make


def is_inner_matrix(name, tensor):
    return tensor.dim() == 2 and (".layers." in name or ".h." in name)


def loaded(base, adapter):
    """The weights that peft makes of base and adapter."""
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return model.merge_and_unload().state_dict()


@pytest.mark.parametrize("kind", [lambda: LlamaForCausalLM(LLAMA), lambda: GPT2LMHeadModel(GPT2)])
def test_peft_loads_an_adapter_of_full_rank_as_the_whole_merge(models, tmp_path, kind):
    base, tuned = models(kind(), is_inner_matrix)
    config = {"method": "task_arithmetic", "base": base, "models": tuned, "scaling": 0.5}
    merge(MergeConfig(**config), tmp_path / "whole")
    result = merge(MergeConfig(**config, adapter_rank=12), tmp_path / "adapter")
    whole, found = load_file(tmp_path / "whole" / "model.safetensors"), loaded(base, tmp_path / "adapter")
    source = read_input(f"{base}+{tmp_path / 'adapter'}", "models.a")
    for name, wanted in whole.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(source.tensor(name), wanted, rtol=1e-5, atol=1e-6)
    assert error_of(result)["overall"] < 1e-6
    assert error_of(result)["left out"] == ()
    for automatic in (peft.AutoPeftModel, peft.AutoPeftModelForCausalLM):
        loaded_alone = automatic.from_pretrained(tmp_path / "adapter").merge_and_unload().state_dict()
        torch.testing.assert_close(dict(loaded_alone), dict(found))


def test_the_error_is_what_the_loaded_adapter_lacks(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), lambda name, tensor: True)
    config = {"method": "average", "base": base, "models": tuned}
    merge(MergeConfig(**config), tmp_path / "whole")
    result = merge(MergeConfig(**config, adapter_rank=2), tmp_path / "adapter")
    whole, found = load_file(tmp_path / "whole" / "model.safetensors"), loaded(base, tmp_path / "adapter")
    start = load_file(f"{base}/model.safetensors")
    rest = {name: float((whole[name] - found[name]).double().square().sum()) for name in whole}
    full = {name: float((whole[name] - start[name]).double().square().sum()) for name in whole}
    assert error_of(result)["overall"] == pytest.approx(
        (sum(rest.values()) / sum(full.values())) ** 0.5, rel=1e-4
    )
    assert set(error_of(result)["by tensor"]) == set(whole)
    for name, error in error_of(result)["by tensor"].items():
        assert error == pytest.approx((rest[name] / full[name]) ** 0.5, rel=1e-3)
    norms = {name for name in whole if "norm" in name}
    assert set(error_of(result)["left out"]) == norms | {"model.embed_tokens.weight"}
    stated = json.loads((tmp_path / "adapter" / "saft.json").read_text())
    assert stated["kind"] == "adapter"
    assert stated["adapter"]["relative error"]["overall"] == error_of(result)["overall"]
    assert "relative error" in str(result)


def test_the_factors_are_the_nearest_of_their_rank(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix, count=1)
    result = merge(MergeConfig("average", base, tuned, adapter_rank=3), tmp_path / "adapter")
    start, end = (load_file(f"{folder}/model.safetensors") for folder in (base, tuned[0]))
    for name, error in error_of(result)["by tensor"].items():
        values = torch.linalg.svdvals((end[name] - start[name]).double())
        assert error == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-3)


def test_the_check_tells_of_the_adapter_and_not_of_the_model(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    for rank, dtype in ((2, None), (8, "bfloat16")):
        config = MergeConfig("average", base, tuned, adapter_rank=rank, dtype=dtype, exclude=["*.mlp.*"])
        checked = merge(config, None, check_only=True)
        merge(config, tmp_path / "adapter", overwrite=True)
        written = load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()
        head = rank * (11 + 8) * (4 if dtype is None else 2)  # could be changed, but is not
        assert checked.plan.bytes_out - head == sum(tensor.nbytes for tensor in written)


def test_a_rank_beyond_that_of_the_matrices_becomes_theirs(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    for rank, folder in ((8, "greatest"), (10**9, "beyond")):
        config = MergeConfig("average", base, tuned, adapter_rank=rank)
        result = merge(config, tmp_path / folder)
        assert json.loads((tmp_path / folder / "adapter_config.json").read_text())["r"] == 8
        assert json.loads((tmp_path / folder / "saft.json").read_text())["adapter"]["rank"] == 8
        assert result.plan.bytes_out < 10**6
    greatest, beyond = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("greatest", "beyond"))
    assert greatest.keys() == beyond.keys()
    assert all(greatest[name].equal(beyond[name]) for name in greatest)


def test_the_check_counts_the_memory_of_factoring_by_the_largest_matrix_that_is_factored(models):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    plan = check(MergeConfig("average", base, tuned, adapter_rank=2))
    whole = check(MergeConfig("average", base, tuned))
    matrix = max(plan.base.headers[name].nbytes for name in adapter.matrices(plan))
    assert plan.memory == whole.memory + 12 * plan.threads * matrix + plan.bytes_out


def test_the_check_counts_the_time_of_factoring(models, monkeypatch):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    monkeypatch.setattr(adapter, "seconds_of", lambda work: 1.0)
    monkeypatch.setattr(time_estimate, "fastest", lambda trial: 1.0)
    plan = check(MergeConfig("average", base, tuned, adapter_rank=2))
    shapes = [plan.layout[name][1] for name in adapter.matrices(plan)]
    expected = sum(rows * columns * min(rows, columns) for rows, columns in shapes) / adapter._SIDE**3
    with_factors = time_estimate.seconds(plan)
    monkeypatch.setattr(adapter, "seconds_of", lambda work: 0.0)
    assert with_factors == pytest.approx(time_estimate.seconds(plan) + expected)
    assert expected > 0


def test_a_merge_of_adapters_is_an_adapter_again(models, tmp_path):
    base, _ = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
        )
        adapted.save_pretrained(tmp_path / name)
    merge_file = tmp_path / "merge.yaml"
    models_listed = f"[{tmp_path / 'one'}, {tmp_path / 'two'}]"
    merge_file.write_text(f"method: task_arithmetic\nbase: {base}\nmodels: {models_listed}\nscaling: 1.0\n")
    assert main(["merge", str(merge_file), str(tmp_path / "out"), "--adapter-rank=4"]) == 0
    stated = json.loads((tmp_path / "out" / "saft.json").read_text())
    assert stated["adapter"]["relative error"]["overall"] < 1e-6
    assert stated["adapter"]["relative error"]["left out"] == []
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {key.split(".")[-3] for key in keys} == {"q_proj"}
    adapters = [str(tmp_path / "one"), str(tmp_path / "two")]
    plan = check(MergeConfig("task_arithmetic", base, adapters, adapter_rank=4))
    assert plan.bytes_out == sum(tensor.nbytes for tensor in keys.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter_rank": 2, "shard_size": "1GB"}, "shard_size: an adapter is one file"),
        ({"adapter_rank": 2, "method": "emr"}, "adapter_rank: emr keeps a part per task"),
        (
            {"adapter_rank": 2, "exclude": ["*_proj.*", "lm_head.*"]},
            "adapter_rank: an adapter changes only matrices, and this merge changes 'model.embed_tokens.weight'",
        ),
    ],
)
def test_what_no_adapter_can_be_is_refused(models, tmp_path, settings, message):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    config = MergeConfig(**{"method": "average", "base": base, "models": tuned} | settings)
    with pytest.raises(UserError, match=message):
        merge(config, tmp_path / "out", check_only=True)


def test_a_merge_that_changes_no_matrix_makes_no_adapter(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), lambda name, tensor: tensor.dim() == 1)
    with pytest.raises(UserError, match="no matrix changes"):
        merge(MergeConfig("average", base, tuned, adapter_rank=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


MEASURED = """
import sys, threading, time, torch
from saft.merge import MergeConfig, merge

def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def sample():
    global peak
    while not done:
        peak = max(peak, private())
        time.sleep(0.002)

base, model, out = sys.argv[1:]
torch.set_num_threads(1)
peak, done = 0, False
sampler = threading.Thread(target=sample)
sampler.start()
result = merge(MergeConfig("task_arithmetic", base, [model], adapter_rank=8), out)
done = True
sampler.join()
print(peak, result.plan.memory)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts private memory")
def test_the_plan_counts_the_memory_that_factoring_takes(save, tmp_path):
    base = save("base", {"a.weight": torch.zeros(2048, 2048)})
    model = save("a", {"a.weight": torch.randn(2048, 2048, generator=torch.manual_seed(0))})
    printed = subprocess.run(
        [sys.executable, "-c", MEASURED, base, model, tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    peak, planned = map(int, printed.split())
    assert 200 * 2**20 < peak <= planned


def test_heads_and_tasks_of_the_models_go_with_an_adapter_and_with_what_is_merged_of_it(models, tmp_path):
    base, tuned = models(LlamaForCausalLM(LLAMA), is_inner_matrix)
    for folder in tuned:
        task = Path(folder).name
        (Path(folder) / "heads").mkdir()
        write_tensors(Path(folder) / "heads" / f"{task}.safetensors", {"weight": torch.ones(2, 3)})
        (Path(folder) / "saft.json").write_text(
            json.dumps({"tasks": {task: {"kind": "text_classification"}}})
        )
    merge(MergeConfig("average", base, tuned, adapter_rank=2), tmp_path / "adapter")
    merge(MergeConfig("average", base, [f"{base}+{tmp_path / 'adapter'}"]), tmp_path / "whole")
    names = {f"{Path(folder).name}.safetensors" for folder in tuned}
    for out in ("adapter", "whole"):
        assert {file.name for file in (tmp_path / out / "heads").iterdir()} == names
        tasks = json.loads((tmp_path / out / "saft.json").read_text())["tasks"]
        assert tasks.keys() == {Path(folder).name for folder in tuned}
    assert not (tmp_path / "adapter" / "config.json").exists()


def test_weights_that_do_not_add_up_to_one_change_what_no_model_has_changed(tmp_path):
    base = {f"layers.{layer}.mlp.weight": torch.randn(4, 4) for layer in range(2)}
    module = "base_model.model.layers.0.mlp"
    factors = {f"{module}.lora_A.weight": torch.ones(1, 4), f"{module}.lora_B.weight": torch.ones(4, 1)}
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
    write_tensors(tmp_path / "base" / "model.safetensors", base)
    (tmp_path / "base" / "config.json").write_text("{}")
    for name in ("a", "b"):
        write_tensors(tmp_path / name / "adapter_model.safetensors", factors)
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    recipe = MergeConfig(
        "linear",
        str(tmp_path / "base"),
        [str(tmp_path / name) for name in ("a", "b")],
        {"weights": [0.5, 0.3], "normalize": False},
        adapter_rank=4,
    )
    merge(recipe, tmp_path / "out")
    written = read_input(str(tmp_path / "out"), "out", read_input(str(tmp_path / "base"), "base"))
    for name, tensor in base.items():
        moved = tensor + 1 if ".0." in name else tensor
        torch.testing.assert_close(written.tensor(name), 0.8 * moved, rtol=1e-4, atol=1e-5)
