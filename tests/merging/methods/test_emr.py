from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saft.merging.methods.emr import Emr
from saft.merging.per_task import unpack
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors
from saft.merging.stream.gathering import prepare, run_steps
from tests.oracles import parts as oracle

CASES = json.loads((Path(__file__).parents[2] / "golden" / "small_cases.json").read_text())


def keep(method, task_vectors):
    """What is kept of task vectors that are one tensor."""
    block = Block(task_vectors, torch.zeros(task_vectors.shape[1]))
    return run_steps(method.split(*task_vectors.shape), lambda function: [function(block)])(block)


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_every_variant_equals_the_equations(variant, count):
    task_vectors = torch.randn(4, count, generator=torch.manual_seed(count)).mul(8).round() / 8
    (expected,), _ = oracle.emr([task_vectors.numpy()], variant)
    found = merge_task_vectors(Emr(variant=variant), task_vectors)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_the_rescalers_weigh_tensors_equally_in_the_code_and_entries_in_the_paper(variant):
    case = CASES["emr_two_tensors"]
    tensors = [torch.tensor([task[name] for task in case["task_vectors"]]) for name in ("big", "small")]
    blocks = [
        Block(part, torch.zeros(part.shape[1]), start=start, size=tensor.shape[1])
        for tensor in tensors
        for start, part in ((0, tensor[:, :1]), (1, tensor[:, 1:]))
        if part.numel()
    ]
    function = prepare(Emr(variant=variant), 2, 5, lambda function: map(function, blocks))
    (key,) = [key for key in case if key.startswith(f"rescalers_{variant}")]
    scaled = torch.cat([function(block) for block in blocks], dim=1)
    plain = torch.tensor(case["unified"]["big"] + case["unified"]["small"])
    masks = torch.tensor([big + small for big, small in zip(*case["masks"].values(), strict=True)])
    torch.testing.assert_close(scaled, torch.tensor(case[key]).unsqueeze(1) * masks * plain)
    assert oracle.emr([tensor.numpy() for tensor in tensors], variant)[1] == pytest.approx(case[key])


def test_the_authors_own_result():
    expected = CASES["small_3x5"]["outputs"]
    task_vectors = torch.tensor(CASES["small_3x5"]["inputs"]["task_vectors"])
    found = keep(Emr(), task_vectors)
    assert found.vector.tolist() == expected["emr.unified"]
    assert unpack(found.parts["mask"], 5).int().tolist() == expected["emr.masks"]
    torch.testing.assert_close(found.rescalers.float(), torch.tensor(expected["emr.rescalers"]))
    torch.testing.assert_close(
        merge_task_vectors(Emr(), task_vectors), torch.tensor(expected["emr.task_deltas"])
    )


@pytest.mark.parametrize("case", ["majority_pos", "majority_neg", "majority_zero"])
def test_a_sum_of_zero_counts_as_negative(case):
    found = keep(Emr(), torch.tensor(CASES["edge_zero_sign"][case]["task_vectors"]))
    assert found.vector.tolist() == CASES["edge_zero_sign"][case]["emr.unified"]


def test_the_sum_is_taken_in_the_order_of_the_tasks():
    case = CASES["edge_near_cancel_order"]
    a, b, c = torch.tensor(case["columns"][0])
    ones = torch.ones(3)
    found = keep(Emr(), torch.stack([torch.stack([a, b, c]), ones], dim=1))
    assert found.vector.tolist() == case["emr_fusionbench.unified(sequential from zeros)"]
    found = keep(Emr(), torch.stack([torch.stack([b, c, a]), ones], dim=1))
    assert found.vector.tolist() == case["emr_fusionbench.unified task order (b,c,a)"]


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_a_task_of_zeros_has_the_base_where_the_authors_code_gives_nan(variant):
    case = CASES["edge_all_zero_task"]
    assert case["emr.rescalers"][0] is None
    task_vectors = torch.tensor(case["task_vectors"])
    found = keep(Emr(variant=variant), task_vectors)
    assert found.rescalers.tolist() == [1, 1]
    assert found.vector.tolist() == case["emr.unified"]
    zeros, other = merge_task_vectors(Emr(variant=variant), task_vectors)
    assert zeros.count_nonzero() == 0
    torch.testing.assert_close(other, task_vectors[1])


def test_a_rescaler_that_float32_cannot_hold_gives_finite_vectors():
    task_vectors = torch.tensor([[1e3, 1e-42], [-2e3, 1e-42]])
    found = merge_task_vectors(Emr(), task_vectors)
    assert keep(Emr(), task_vectors).rescalers[0] > 1e40
    assert found.isfinite().all()
    assert np.isclose(found[0, 1].item(), 1e3, rtol=1e-3)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_task_vectors_near_the_end_of_float32_have_finite_rescalers(variant):
    task_vectors = torch.full((2, 1000), 1e37)
    assert keep(Emr(variant=variant), task_vectors).rescalers.tolist() == [1, 1]


def test_many_small_tensors_near_the_end_of_float32_have_finite_rescalers():
    blocks = [Block(torch.full((2, 1), 1e37), torch.zeros(1), name, size=1) for name in map(str, range(200))]
    function = run_steps(Emr().split(2, 200), lambda work: map(work, blocks))
    assert function(blocks[0]).rescalers.tolist() == [1, 1]
