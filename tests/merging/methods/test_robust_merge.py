"""RobustMerge against its equations, and from adapter folders to the whole model."""

from __future__ import annotations

import dataclasses
import json

import hypothesis.strategies as st
import peft
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from saft.errors import UserError
from saft.merging.inputs.factors import Factors
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.robust_merge import RobustMerge
from saft.merging.outputs.record import write_merge
from saft.merging.stream.block import Block
from saft.merging.stream.engine import stream
from tests.oracles import adapters as oracle

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
]


def draw(tasks, outputs, inputs, rank, dtype=torch.float32):
    generator = torch.manual_seed(tasks + rank)
    return tuple(
        Factors(
            torch.randn(rank, inputs, generator=generator, dtype=dtype),
            torch.randn(outputs, rank, generator=generator, dtype=dtype),
        )
        for _ in range(tasks)
    )


def expected(factors, **parameters):
    return oracle.robust_merge(
        [task.down.double().numpy() for task in factors],
        [task.up.double().numpy() * task.scale for task in factors],
        **parameters,
    )


def merged(method, factors):
    """The merged change of a tensor, through the steps of the method."""
    shape = (len(factors[0].up), factors[0].down.shape[1])
    shape = shape[::-1] if factors[0].transposed else shape
    block = Block(factors[0].down.new_zeros(len(factors), *shape), torch.zeros(shape), factors=factors)
    try:
        next(method.steps(len(factors), 1))
    except StopIteration as end:
        return end.value(block)
    raise AssertionError("it asks for no statistic")


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("rank", [1, 3, 5, 8, 10])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"density": 1.0},
        {"density": 0.01},
        {"distinct": 1.0},
        {"distinct": 0.01},
        {"coefficient": 0.5, "density": 0.5, "distinct": 0.5},
    ],
    ids=repr,
)
def test_the_matrices_are_those_of_the_equations(tasks, rank, parameters):
    factors = draw(tasks, 12, 15, rank)
    down, up = (torch.from_numpy(found) for found in expected(factors, **parameters))
    method = RobustMerge(**parameters)
    found = method.merged(factors)
    torch.testing.assert_close(found.down.double(), down, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.up.double(), up, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged(method, factors).double(), up @ down, rtol=1e-4, atol=1e-4)


def test_float64_stays_float64():
    factors = draw(3, 12, 15, 4, torch.float64)
    down, up = expected(factors)
    torch.testing.assert_close(
        merged(RobustMerge(), factors), torch.from_numpy(up @ down), rtol=1e-12, atol=0
    )


def test_a_scale_is_part_of_b_and_may_differ():
    factors = tuple(
        dataclasses.replace(task, scale=scale)
        for task, scale in zip(draw(2, 6, 7, 3), (0.5, 4.0), strict=True)
    )
    down, up = expected(factors)
    torch.testing.assert_close(
        merged(RobustMerge(), factors).double(), torch.from_numpy(up @ down), atol=1e-4, rtol=1e-4
    )


def test_one_adapter_of_which_everything_is_kept_comes_back_times_the_square_of_the_coefficient():
    (factors,) = draw(1, 6, 7, 3)
    found = merged(RobustMerge(density=1.0), (factors,))
    torch.testing.assert_close(found, 4 * factors.change((6, 7)))


def test_the_change_is_transposed_where_the_base_is():
    factors = draw(2, 6, 7, 3)
    transposed = tuple(dataclasses.replace(task, transposed=True) for task in factors)
    assert merged(RobustMerge(), transposed).equal(merged(RobustMerge(), factors).T)


def test_a_direction_of_which_nothing_is_left_counts_least():
    """Row 1 of the first A is pruned as a whole; the other task's B has the column for itself."""
    one = Factors(torch.tensor([[9.0, 8.0], [0.1, 0.1]]), torch.ones(3, 2))
    other = Factors(torch.tensor([[9.0, 1.0], [7.0, 6.0]]), 2 * torch.ones(3, 2))
    method = RobustMerge(density=0.25, distinct=1.0, coefficient=1.0)
    found = method.merged((one, other))
    assert found.up[:, 1].tolist() == [2.0, 2.0, 2.0]
    assert found.down.isfinite().all()


VALUES = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1e-30, 1e-42])


@st.composite
def any_factors(draw):
    tasks, rank, outputs, inputs = (draw(st.integers(1, 4)) for _ in range(4))

    def matrix(rows, columns):
        row = st.lists(VALUES, min_size=columns, max_size=columns)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))

    return tuple(Factors(matrix(rank, inputs), matrix(outputs, rank)) for _ in range(tasks))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(factors=any_factors(), density=st.floats(0.01, 1.0), distinct=st.floats(0.01, 1.0))
def test_any_adapters_give_finite_matrices_and_are_left_alone(factors, density, distinct):
    before = [(task.down.clone(), task.up.clone()) for task in factors]
    found = RobustMerge(density=density, distinct=distinct).merged(factors)
    assert found.down.shape == factors[0].down.shape
    assert found.up.shape == factors[0].up.shape
    assert found.down.isfinite().all()
    assert found.up.isfinite().all()
    for task, (down, up) in zip(factors, before, strict=True):
        assert task.down.equal(down)
        assert task.up.equal(up)
    assert found.down.abs().sum() <= 2 * sum(task.down.abs().sum() for task in factors) * 1.00001


@settings(deadline=None, derandomize=True, max_examples=50)
@given(factors=any_factors())
def test_the_order_of_the_adapters_is_visible_in_the_last_bits_alone(factors):
    found, other = RobustMerge().merged(factors), RobustMerge().merged(factors[::-1])
    torch.testing.assert_close(found.down, other.down, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.up, other.up, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("tasks", [1, 3])
def test_adapters_of_zeros_change_nothing(rank, tasks):
    zero = Factors(torch.zeros(rank, 5), torch.zeros(6, rank))
    assert merged(RobustMerge(), (zero,) * tasks).equal(torch.zeros(6, 5))
    fresh = Factors(torch.randn(rank, 5, generator=torch.manual_seed(0)), torch.zeros(6, rank))
    assert merged(RobustMerge(), (fresh,) * tasks).equal(torch.zeros(6, 5))


# From folders


def llama():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False))


def adapt(make, folder, seed, **settings):
    """Save an adapter of which every number is drawn; return its tensors."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(make(), peft.LoraConfig(**{"r": 3, "lora_alpha": 6, **settings}))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def base(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def change(saved, module, scale=2.0):
    """The merged change of a module by the equations, from the adapters' files."""
    prefix = f"base_model.model.{module}"
    downs = [tensors[f"{prefix}.lora_A.weight"].double().numpy() for tensors in saved]
    ups = [tensors[f"{prefix}.lora_B.weight"].double().numpy() * scale for tensors in saved]
    down, up = oracle.robust_merge(downs, ups)
    return torch.from_numpy(up @ down)


def test_adapter_folders_give_a_whole_model(base, tmp_path):
    settings = {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["lm_head"]}
    saved = [adapt(llama, tmp_path / name, seed, **settings) for seed, name in enumerate("abc", start=1)]
    models = [str(tmp_path / "a"), str(tmp_path / "b"), f"{base}+{tmp_path / 'c'}"]
    write_merge(check(MergeConfig("robust_merge", base, models)), tmp_path / "out")
    start, end = (load_file(f"{folder}/model.safetensors") for folder in (base, tmp_path / "out"))
    changed = {name for name in start if not start[name].equal(end[name])}
    for name in changed:
        if name == "lm_head.weight":
            wanted = sum(tensors[f"base_model.model.{name}"] for tensors in saved) / 3
        else:
            wanted = start[name] + change(saved, name.removesuffix(".weight"))
        torch.testing.assert_close(end[name].double(), wanted.double(), rtol=1e-4, atol=1e-5)
    assert len(changed) == 2 * 2 + 1
    stated = json.loads((tmp_path / "out" / "saft.json").read_text())
    assert stated["parameters"] == {"density": 0.2, "distinct": 0.2, "coefficient": 2.0}


def test_matrices_that_the_base_stores_transposed(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    targets = {"target_modules": ["c_attn", "attn.c_proj"]}  # c_proj of the attention is square
    saved = [adapt(gpt2, tmp_path / name, seed, **targets) for seed, name in enumerate("ab", start=1)]
    plan = check(MergeConfig("robust_merge", str(tmp_path / "base"), [str(tmp_path / name) for name in "ab"]))
    found = dict(stream(plan))
    for name in ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj"):
        torch.testing.assert_close(
            found[f"{name}.weight"].double(), change(saved, name).T, rtol=1e-4, atol=1e-5
        )


def test_threads_do_not_change_a_bit(base, tmp_path):
    for seed, name in enumerate("ab"):
        adapt(llama, tmp_path / name, seed, target_modules="all-linear")
    plan = check(MergeConfig("robust_merge", base, [str(tmp_path / name) for name in "ab"]))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(dict(stream(plan)))
    finally:
        torch.set_num_threads(threads)
    assert all(found[0][name].equal(found[1][name]) for name in plan.merged)


def refusal(base, *models, **more):
    with pytest.raises(UserError) as caught:
        check(MergeConfig("robust_merge", base, [str(model) for model in models], **more))
    return str(caught.value)


def test_what_are_no_adapters_of_the_base_is_refused(base, tmp_path):
    adapt(llama, tmp_path / "a", 1, target_modules=["q_proj"])
    assert f"{base} is not a LoRA adapter of the base" in refusal(base, tmp_path / "a", base)
    llama().save_pretrained(tmp_path / "other")
    other = f"{tmp_path / 'other'}+{tmp_path / 'a'}"
    assert "other+" in refusal(base, tmp_path / "a", other)


def test_adapters_of_different_rank_are_refused_with_the_tensor(base, tmp_path):
    adapt(llama, tmp_path / "a", 1, target_modules=["q_proj"])
    adapt(llama, tmp_path / "b", 2, target_modules=["q_proj"], r=4)
    text = refusal(base, tmp_path / "a", tmp_path / "b")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert f"its adapter has rank 4 at '{name}', that of models.a has rank 3 (2 tensors differ)" in text
    assert "train them with the same r" in text


def test_adapters_of_different_modules_are_refused_unless_those_are_excluded(base, tmp_path):
    adapt(llama, tmp_path / "a", 1, target_modules=["q_proj", "k_proj"])
    adapt(llama, tmp_path / "b", 2, target_modules=["q_proj", "v_proj"])
    text = refusal(base, tmp_path / "a", tmp_path / "b")
    assert "models.b: its adapter changes 'model.layers.0.self_attn.v_proj.weight'" in text
    assert "models.a: its adapter changes 'model.layers.0.self_attn.k_proj.weight'" in text
    models = [str(tmp_path / "a"), str(tmp_path / "b")]
    plan = check(MergeConfig("robust_merge", base, models, exclude=["*k_proj*", "*v_proj*"]))
    changed = {name.split(".")[-2] for name, vector in stream(plan) if vector.any()}
    assert changed == {"q_proj"}
