"""Methods on the full changes of adapters, from adapter folders to weights and to an adapter again."""

from __future__ import annotations

import json
import re

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from saft.cli import main
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
LLAMA = LlamaConfig(
    vocab_size=11,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture
def adapters(tmp_path):
    """Return a function that writes a base and two adapters; it gives their changes, {tensor: [2, *shape]}."""

    def make(spread=0.3, rank=3):
        torch.manual_seed(0)
        LlamaForCausalLM(LLAMA).save_pretrained(tmp_path / "base")
        changes = {}
        for name in "ab":
            adapted = peft.get_peft_model(
                LlamaForCausalLM(LLAMA),
                peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights=False),
            )
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=spread)
            adapted.save_pretrained(tmp_path / name)
            saved = load_file(tmp_path / name / "adapter_model.safetensors")
            for key in saved:
                if key.endswith("lora_A.weight"):
                    up = saved[key.replace("lora_A", "lora_B")].double()
                    module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                    changes.setdefault(f"{module}.weight", []).append(up @ saved[key].double())
        return {name: torch.stack(found) for name, found in changes.items()}

    return make


def run(tmp_path, method, out, *more):
    merge_file = tmp_path / "merge.yaml"
    models = [str(tmp_path / name) for name in "ab"]
    merge_file.write_text(f"method: {method}\nbase: {tmp_path / 'base'}\nmodels: {models}\n")
    assert main(["merge", str(merge_file), str(tmp_path / out), *more]) == 0


@pytest.mark.parametrize(("method", "rank"), [("ties", 6), ("dare", 6), ("knots", 6), ("robust_merge", 3)])
def test_adapters_give_weights_and_an_adapter_with_its_error(adapters, tmp_path, method, rank, capsys):
    changes = adapters()
    run(tmp_path, method, "whole")
    capsys.readouterr()
    run(tmp_path, method, "adapter", f"--adapter-rank={rank}")
    printed = float(re.search(r"relative error ([-+.e0-9]+),", capsys.readouterr().out)[1])
    start, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "whole"))
    assert {name for name in start if not start[name].equal(whole[name])} == changes.keys()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().state_dict()
    lost = sum(float((whole[name] - loaded[name]).double().square().sum()) for name in start)
    moved = sum(float((whole[name] - start[name]).double().square().sum()) for name in start)
    stated = json.loads((tmp_path / "adapter" / "saft.json").read_text())["adapter"]["relative error"]
    assert stated["overall"] == pytest.approx((lost / moved) ** 0.5, rel=1e-3, abs=1e-6)
    assert printed == pytest.approx(stated["overall"], rel=1e-2, abs=1e-9)
    # TIES and DARE choose single entries of a change, which then has more directions than its factors.
    assert (stated["overall"] < 1e-6) == (method in ("knots", "robust_merge"))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {"granularity": "tensor"}), ("dare", {"density": 1.0}), ("task_arithmetic", {})],
)
def test_what_is_merged_is_the_product_of_the_factors(adapters, tmp_path, method, parameters):
    """With the statistics of each tensor, so that every tensor can be compared by itself."""
    changes = adapters(spread=0.01)
    models = [str(tmp_path / name) for name in "ab"]
    found = dict(stream(check(MergeConfig(method, str(tmp_path / "base"), models, parameters))))
    for name, change in changes.items():
        expected = merge_task_vectors(METHODS.get(method).build(parameters), change.float().flatten(1))
        torch.testing.assert_close(found[name].flatten(), expected, rtol=1e-5, atol=1e-9)
    assert {name for name, vector in found.items() if vector.any()} == changes.keys()


@pytest.mark.parametrize("spread", [0.3, 1e-3, 1e-5])
def test_knots_counts_the_directions_of_the_factors_however_small(adapters, tmp_path, spread):
    """The base plus a small change, minus the base, has every direction in its rounding."""
    changes = adapters(spread=spread)
    names = sorted(changes)
    expected = oracle.knots([changes[name].numpy() / spread**2 for name in names], 0.2, "mean")
    plan = check(MergeConfig("knots", str(tmp_path / "base"), [str(tmp_path / name) for name in "ab"]))
    found = dict(stream(plan))
    for name, tensor in zip(names, expected, strict=True):
        torch.testing.assert_close(
            found[name].double() / spread**2, torch.from_numpy(tensor), rtol=1e-3, atol=1e-5
        )
