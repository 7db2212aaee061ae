from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.dare import Dare
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import elementwise, merging


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("rescale", ["probability", "norm", "none"])
def test_the_sum_of_what_is_left_equals_the_equations(density, rescale):
    task_vectors = torch.randn(3, 500, generator=torch.manual_seed(0))
    uniform = Block(task_vectors, torch.zeros(500), seed=7).uniform().numpy()
    found = merge_task_vectors(Dare(density=density, rescale=rescale), task_vectors, seed=7)
    expected = elementwise.drop(task_vectors.numpy(), uniform, density, rescale).sum(axis=0)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trim", [0.2, 1.0])
@pytest.mark.parametrize("combine", ["mean", "sum", "max"])
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_ties_merges_the_rescaled_vectors(density, combine, trim):
    task_vectors = torch.randn(3, 500, generator=torch.manual_seed(0)).mul(8).round() / 8
    uniform = Block(task_vectors, torch.zeros(500)).uniform().numpy()
    method = Dare(density=density, merger="ties", combine=combine, trim=trim)
    dropped = elementwise.drop(task_vectors.numpy(), uniform, density, "probability").astype("float32")
    expected = merging.ties(dropped, trim, combine)
    found = merge_task_vectors(method, task_vectors)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=0)
    if trim == 0.2 and density == 0.1:  # more is dropped than would be trimmed
        assert found.equal(
            merge_task_vectors(Dare(density=density, merger="ties", combine=combine, trim=1.0), task_vectors)
        )


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_the_expectation_is_the_task_vector(density):
    values = torch.tensor([[3.0, -0.5], [0.25, 2.0]])
    task_vectors = values.repeat_interleave(100_000, dim=1)
    found = merge_task_vectors(Dare(density=density), task_vectors)
    means = found.view(2, -1).mean(dim=1)
    deviation = (values.square().sum(dim=0) * (1 - density) / density / 100_000).sqrt()
    assert ((means - values.sum(dim=0)).abs() < 4 * deviation).all()


def test_the_norm_of_each_task_is_restored():
    task_vector = torch.randn(1, 1000, generator=torch.manual_seed(0))
    found = merge_task_vectors(Dare(density=0.3, rescale="norm"), task_vector)
    torch.testing.assert_close(found.abs().sum(), task_vector.abs().sum())
    assert 200 < found.count_nonzero() < 400


def test_the_tasks_are_dropped_apart_and_the_seed_changes_all():
    task_vectors = torch.ones(2, 1000)
    found = merge_task_vectors(Dare(density=0.5, rescale="none"), task_vectors, seed=1)
    assert set(found.tolist()) == {0.0, 1.0, 2.0}
    assert found.equal(merge_task_vectors(Dare(density=0.5, rescale="none"), task_vectors, seed=1))
    assert not found.equal(merge_task_vectors(Dare(density=0.5, rescale="none"), task_vectors, seed=2))


def test_weights_count_in_both_mergers():
    task_vectors = torch.tensor([[1.0, 1.0], [-2.0, 2.0]])
    assert merge_task_vectors(Dare(density=1, weights=(4, 1)), task_vectors).tolist() == [2.0, 6.0]
    ties = Dare(density=1, weights=(4, 1), merger="ties", combine="sum", trim=1)
    assert merge_task_vectors(ties, task_vectors).tolist() == [4.0, 6.0]


def test_everything_dropped_is_nothing():
    task_vectors = torch.randn(2, 3)
    for rescale in ("probability", "norm", "none"):
        for merger in ("sum", "ties"):
            found = merge_task_vectors(Dare(density=1e-9, rescale=rescale, merger=merger), task_vectors)
            assert found.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "parameters",
    [{}, {"rescale": "norm", "granularity": "tensor"}, {"merger": "ties", "granularity": "tensor"}],
)
def test_each_tensor_draws_its_own_numbers_in_the_stream(checkpoints, base_tensors, task_tensors, parameters):
    base, models = checkpoints
    method = Dare(**parameters)
    for name, found in stream(check(MergeConfig("dare", base, models, parameters, seed=3))):
        rows = torch.stack([t[name] - base_tensors[name] for t in task_tensors.values()]).reshape(
            3, base_tensors[name].numel()
        )
        if rows.numel() == 0:
            continue
        block = Block(rows, base_tensors[name].flatten(), name, seed=3)
        expected = elementwise.drop(rows.numpy(), block.uniform().numpy(), 0.5, method.rescale)
        if method.merger == "ties":
            expected = merging.ties(expected.astype("float32"), 0.2)
        else:
            expected = expected.sum(axis=0)
        torch.testing.assert_close(found.flatten(), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-7)
