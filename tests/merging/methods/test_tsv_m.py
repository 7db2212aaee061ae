from __future__ import annotations

import numpy as np
import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.tsv_m import TsvM
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (24, 24), (8, 100)])
def test_matrices_equal_the_equations(tasks, shape):
    task_vectors = drawn(tasks, shape)
    found = merge_task_vectors(TsvM(), task_vectors)
    expected = torch.from_numpy(oracle.tsv_m(task_vectors.double().numpy()))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2), (2, 9), (9, 2)])
def test_what_has_no_room_for_a_direction_of_each_task_is_averaged(shape):
    task_vectors = drawn(3, shape)
    torch.testing.assert_close(merge_task_vectors(TsvM(), task_vectors), task_vectors.mean(dim=0))


def test_one_task_is_itself():
    task_vectors = drawn(1, (20, 30))
    torch.testing.assert_close(merge_task_vectors(TsvM(), task_vectors), task_vectors[0])


def test_a_task_of_zeros_takes_part_in_the_number_alone():
    task_vectors = drawn(2, (20, 30))
    found = merge_task_vectors(TsvM(), torch.cat([task_vectors, torch.zeros(2, 20, 30)]))
    left, values, right = np.linalg.svd(task_vectors.double().numpy(), full_matrices=False)
    u = oracle.orthogonal(np.concatenate([x[:, :5] for x in left], axis=1))
    v = oracle.orthogonal(np.concatenate([x[:5] for x in right], axis=0))
    expected = u * values[:, :5].flatten() @ v
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-8)


def test_a_task_that_comes_twice_is_the_cut_task():
    """The two share each direction: half of it comes from either."""
    task_vector = drawn(1, (20, 30))
    found = merge_task_vectors(TsvM(), task_vector.repeat(2, 1, 1))
    left, values, right = torch.linalg.svd(task_vector[0], full_matrices=False)
    torch.testing.assert_close(found, left[:, :10] * values[:10] @ right[:10], rtol=1e-4, atol=1e-7)


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    for name, found in stream(check(MergeConfig("tsv_m", base, models))):
        rows = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert found.equal(merge_task_vectors(TsvM(), rows))
