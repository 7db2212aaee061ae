from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from saft.files.checkpoint import write_tensors
from saft.files.tensorfile import read_headers
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.regmean import RegMean
from saft.merging.stream.block import Block
from saft.merging.stream.data_statistics import Collected
from saft.merging.stream.engine import stream
from saft.merging.stream.gathering import prepare
from tests.oracles import data as oracle


def merge(method, task_vectors, base=None, **statistics):
    base = torch.zeros(task_vectors.shape[1:]) if base is None else base
    block = Block(task_vectors, base, statistics=statistics)
    return prepare(method, len(task_vectors), base.numel(), lambda function: [function(block)])(block)


def products(tasks, inputs, examples, seed=0):
    x = torch.randn(tasks, examples, inputs, generator=torch.manual_seed(seed))
    return x.mT @ x / examples


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    tasks=st.integers(1, 4),
    inputs=st.integers(1, 8),
    outputs=st.integers(1, 8),
    off_diagonal=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_the_result_solves_the_normal_equations(seed, tasks, inputs, outputs, off_diagonal):
    grams = products(tasks, inputs, 30, seed)
    base = torch.randn(outputs, inputs)
    task_vectors = torch.randn(tasks, outputs, inputs) * 0.1
    method = RegMean(off_diagonal=off_diagonal, ridge=1e-12)
    expected = oracle.regmean((base + task_vectors).numpy(), grams.numpy(), off_diagonal)
    found = base + merge(method, task_vectors, base, gram=grams)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    turned = base.T + merge(method, task_vectors.mT.contiguous(), base.T, gram_of_rows=grams)
    np.testing.assert_allclose(turned.T.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_outputs_are_nearest_to_those_of_the_models():
    x = torch.randn(3, 50, 6, generator=torch.manual_seed(0)).double()
    models = torch.randn(3, 4, 6, generator=torch.manual_seed(1))
    grams = (x.mT @ x / 50).float()
    merged = merge(RegMean(off_diagonal=1.0, ridge=1e-9), models, gram=grams).double()

    def distance(weight):
        return ((x @ weight.T - x @ models.double().mT) ** 2).sum()

    least = distance(merged)
    for seed in range(10):
        step = torch.randn(4, 6, generator=torch.manual_seed(seed)) * 1e-2
        assert distance(merged + step) > least


def test_inputs_that_no_task_uses_and_layers_without_data_get_the_average():
    task_vectors = torch.randn(2, 3, 4)
    average = task_vectors.mean(dim=0)
    torch.testing.assert_close(merge(RegMean(), task_vectors, gram=torch.zeros(2, 4, 4)), average)
    grams = products(2, 4, 20)
    grams[:, 1], grams[:, :, 1] = 0, 0
    found = merge(RegMean(off_diagonal=1.0), task_vectors, gram=grams)
    torch.testing.assert_close(found[:, 1], average[:, 1])
    assert found.isfinite().all()


def test_fewer_examples_than_inputs_are_finite():
    for scale in (1e-30, 1.0, 1e15):
        found = merge(RegMean(off_diagonal=1.0), torch.randn(3, 5, 40), gram=products(3, 40, 2) * scale)
        assert found.isfinite().all()
        assert found.abs().max() < 1e3


def test_equal_products_and_equal_models_give_the_average():
    gram = products(1, 6, 50).repeat(3, 1, 1)
    task_vectors = torch.randn(3, 2, 6)
    torch.testing.assert_close(
        merge(RegMean(), task_vectors, gram=gram), task_vectors.mean(dim=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_the_stream_gives_each_layer_its_products(
    checkpoints, base_tensors, task_tensors, tmp_path, arithmetic
):
    base, models = checkpoints
    headers, grams = [], products(3, 3, 10)
    for task, gram in zip(models, grams, strict=True):
        write_tensors(tmp_path / f"{task}.safetensors", {"layer.1.weight": gram})
        headers.append(read_headers(tmp_path / f"{task}.safetensors"))
    plan = check(MergeConfig("regmean", base, models, arithmetic=arithmetic))
    found = dict(stream(dataclasses.replace(plan, collected=Collected({"gram": headers}))))
    for name in ("layer.0.weight", "layer.0.bias", "scale"):
        expected = sum(tensors[name] for tensors in task_tensors.values()) / 3
        torch.testing.assert_close(base_tensors[name] + found[name].float(), expected, rtol=1e-4, atol=1e-6)
    stacked = torch.stack([tensors["layer.1.weight"] for tensors in task_tensors.values()])
    expected = oracle.regmean(stacked.numpy(), grams.numpy(), 0.9)
    result = base_tensors["layer.1.weight"] + found["layer.1.weight"]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3, atol=1e-5)
