from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from saft.errors import UserError
from saft.files.checkpoint import write_tensors
from saft.files.tensorfile import read_headers
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig
from saft.merging.methods.fisher import Fisher
from saft.merging.stream.block import Block
from saft.merging.stream.data_statistics import Collected
from saft.merging.stream.engine import stream
from saft.merging.stream.gathering import prepare
from tests.oracles import data as oracle


def merge(method, task_vectors, information, base=None):
    base = torch.zeros(task_vectors.shape[1]) if base is None else base
    block = Block(task_vectors, base, statistics={"fisher": information})
    return prepare(method, *task_vectors.shape, lambda function: [function(block)])(block)


@pytest.mark.parametrize("variant", ["paper", "mergelm"])
@pytest.mark.parametrize("normalize", [True, False])
@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    tasks=st.integers(1, 4),
    size=st.integers(1, 20),
    scale=st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e3]),
)
def test_the_result_is_the_weighted_average_of_the_models(variant, normalize, seed, tasks, size, scale):
    generator = torch.manual_seed(seed)
    base = torch.randn(size, generator=generator)
    task_vectors = torch.randn(tasks, size, generator=generator) * 0.1
    information = torch.rand(tasks, size, generator=generator) ** 4 * scale
    information[0, torch.rand(size, generator=generator) < 0.3] = 0
    weights = tuple((torch.rand(tasks, generator=generator) + 0.1).tolist())
    method = Fisher(variant=variant, normalize=normalize, weights=weights)
    found = base + merge(method, task_vectors, information, base)
    expected = oracle.fisher_merge(
        (base + task_vectors).numpy(), information.numpy(), weights, 1e-6, normalize, variant == "mergelm"
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "mergelm"])
def test_without_information_the_average_comes_out(variant):
    task_vectors = torch.randn(3, 50)
    expected = task_vectors.mean(dim=0)
    torch.testing.assert_close(merge(Fisher(variant=variant), task_vectors, torch.zeros(3, 50)), expected)


def test_a_task_that_alone_has_information_wins():
    information = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = merge(Fisher(), torch.tensor([[4.0, 4.0], [-2.0, -2.0]]), information)
    torch.testing.assert_close(found, torch.tensor([4.0, -2.0]), rtol=0, atol=1e-4)


def test_extreme_information_is_finite():
    for scale in (0.0, 1e-45, 1e-30, 1e18):
        information = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 1e-3]]) * scale
        for variant in ("paper", "mergelm"):
            assert merge(Fisher(variant=variant), torch.ones(2, 3), information).isfinite().all()


def test_weights_that_are_all_zero_are_refused():
    assert Fisher(weights=(0.0, 1.0)).problems(2) == []
    assert Fisher(weights=(0.0,)).problems(2) == [
        "weights: are all zero; give at least one model a weight that is not"
    ]


def test_the_stream_cuts_the_information_as_the_task_vectors(
    checkpoints, base_tensors, task_tensors, tmp_path
):

    base, models = checkpoints
    plan = check(MergeConfig("fisher", base, models, block_size=1))
    with pytest.raises(ValueError, match=r"fisher reads examples; collect them"):
        next(stream(plan))
    generator = torch.manual_seed(0)
    rows, headers = [], []
    for task in models:
        found = {n: torch.rand(base_tensors[n].shape, generator=generator) for n in plan.merged}
        del found["layer.1.weight"]  # what the data do not touch
        write_tensors(tmp_path / f"{task}.safetensors", found)
        headers.append(read_headers(tmp_path / f"{task}.safetensors"))
        rows.append(found)
    merged = dict(stream(dataclasses.replace(plan, collected=Collected({"fisher": headers}))))
    names = sorted(plan.merged)

    def flat(tensors):
        return torch.cat([tensors.get(n, torch.zeros(base_tensors[n].shape)).flatten() for n in names])

    task_vectors = torch.stack([flat(task_tensors[t]) - flat(base_tensors) for t in models])
    expected = merge(Fisher(), task_vectors, torch.stack([flat(found) for found in rows]))
    torch.testing.assert_close(flat(merged), expected, rtol=1e-5, atol=1e-8)


def test_a_method_without_data_refuses_data(checkpoints):

    base, models = checkpoints
    with pytest.raises(UserError, match=r"data: 'ties' reads no examples; leave `data` out"):
        check(MergeConfig("ties", base, models, data=DataConfig(examples=3)))
