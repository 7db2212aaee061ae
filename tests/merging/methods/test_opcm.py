from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.opcm import Opcm
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 6), (20, 30), (30, 20), (12, 12), (7,)])
def test_scaling_once_equals_scaling_at_each_step(tasks, alpha, shape):
    task_vectors = drawn(tasks, shape)
    (expected,) = oracle.opcm([task_vectors.double().numpy()], alpha)
    found = merge_task_vectors(Opcm(alpha=alpha), task_vectors)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-7)


def test_the_norm_is_that_of_the_whole_model(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    found = dict(stream(check(MergeConfig("opcm", base, models, {"alpha": 0.4}))))
    rows = {
        name: torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        for name in found
    }
    names = [name for name in found if found[name].numel()]
    expected = oracle.opcm([rows[name].double().numpy() for name in names], 0.4)
    for name, tensor in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name].double(), torch.as_tensor(tensor), rtol=1e-4, atol=1e-6)
    norms = torch.stack(
        [torch.cat([row[task].flatten() for row in rows.values()]).norm() for task in range(3)]
    )
    merged = torch.cat([tensor.flatten() for tensor in found.values()])
    torch.testing.assert_close(merged.norm(), norms.mean())


def test_the_order_of_the_models_counts():
    task_vectors = drawn(2, (6, 8))
    found = merge_task_vectors(Opcm(), task_vectors)
    assert not merge_task_vectors(Opcm(), task_vectors.flip(0)).allclose(found, rtol=1e-2)


def test_a_task_that_comes_again_adds_nothing():
    task_vector = drawn(1, (6, 8))
    found = merge_task_vectors(Opcm(), task_vector.repeat(3, 1, 1))
    torch.testing.assert_close(found, task_vector[0])


def test_a_first_task_of_zeros_leaves_the_second_whole():
    task_vectors = torch.cat([torch.zeros(1, 6, 8), drawn(1, (6, 8))])
    torch.testing.assert_close(merge_task_vectors(Opcm(), task_vectors), task_vectors[1] / 2)


@pytest.mark.parametrize("least", [1e-3, 1e-40])
def test_however_little_is_merged_has_the_mean_norm(least):
    """Of a matrix of one entry the second task adds nothing to what the first already has."""
    found = merge_task_vectors(Opcm(), torch.tensor([[[least]], [[1.0]]]))
    torch.testing.assert_close(found, torch.tensor([[(1 + least) / 2]]))


def test_a_sum_of_zero_leaves_the_base():
    found = merge_task_vectors(Opcm(), torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    assert found.equal(torch.zeros(2))
