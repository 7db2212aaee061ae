from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.iso_c import IsoC
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [1, 2, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (20, 30), (30, 20), (24, 24)])
def test_matrices_equal_the_equations(tasks, shape):
    task_vectors = drawn(tasks, shape)
    found = merge_task_vectors(IsoC(), task_vectors)
    expected = torch.from_numpy(oracle.iso_c(task_vectors.double().numpy()))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2)])
def test_what_is_no_matrix_is_averaged(shape):
    task_vectors = drawn(3, shape)
    torch.testing.assert_close(merge_task_vectors(IsoC(), task_vectors), task_vectors.mean(dim=0))


def test_all_singular_values_are_the_mean():
    task_vectors = drawn(4, (20, 30))
    found = torch.linalg.svdvals(merge_task_vectors(IsoC(), task_vectors))
    mean = torch.linalg.svdvals(task_vectors.sum(dim=0)).mean()
    torch.testing.assert_close(found, mean.expand(20))


def test_of_a_sum_of_low_rank_the_directions_that_it_has_are_made_equal():
    draw = torch.manual_seed(0)
    added = torch.randn(20, 3, generator=draw) @ torch.randn(3, 30, generator=draw)
    found = torch.linalg.svdvals(merge_task_vectors(IsoC(), added.unsqueeze(0)))
    mean = torch.linalg.svdvals(added)[:3].mean()
    torch.testing.assert_close(found, torch.cat([mean.expand(3), torch.zeros(17)]), rtol=1e-4, atol=1e-4)


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    for name, found in stream(check(MergeConfig("iso_c", base, models))):
        rows = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert found.equal(merge_task_vectors(IsoC(), rows))
