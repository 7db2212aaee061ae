from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.iso_c import IsoC
from saft.merging.methods.iso_cts import IsoCts
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [1, 2, 8])
@pytest.mark.parametrize("common", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (24, 24)])
def test_matrices_equal_the_equations(tasks, common, shape):
    task_vectors = drawn(tasks, shape)
    found = merge_task_vectors(IsoCts(common=common), task_vectors)
    expected = torch.from_numpy(oracle.iso_cts(task_vectors.double().numpy(), common))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2)])
def test_what_is_no_matrix_is_averaged(shape):
    task_vectors = drawn(3, shape)
    torch.testing.assert_close(merge_task_vectors(IsoCts(), task_vectors), task_vectors.mean(dim=0))


@pytest.mark.parametrize(("method", "shape"), [(IsoCts(common=1.0), (20, 30)), (IsoCts(), (4, 30))])
def test_with_nothing_left_for_the_tasks_it_is_iso_c(method, shape):
    task_vectors = drawn(8, shape)
    expected = merge_task_vectors(IsoC(), task_vectors)
    torch.testing.assert_close(merge_task_vectors(method, task_vectors), expected, rtol=1e-4, atol=1e-6)


def test_directions_are_shared_out_in_whole_numbers():
    for common in (0.0, 0.1, 0.5, 0.8, 1.0):
        for size in range(1, 40):
            for tasks in range(1, 10):
                shared, each = IsoCts(common=common).share_out(size, tasks)
                assert shared >= 0
                assert shared + each * tasks == size
    assert IsoCts(common=0.0).share_out(3, 2) == (1, 1)  # the authors' rounding gives each task two of three


def test_a_task_of_zeros_adds_nothing():
    task_vectors = torch.cat([drawn(2, (20, 30)), torch.zeros(1, 20, 30)])
    found = torch.linalg.svdvals(merge_task_vectors(IsoCts(common=0.5), task_vectors))
    shared, each = IsoCts(common=0.5).share_out(20, 3)
    assert (found > found[0] * 1e-4).sum() == shared + 2 * each


@pytest.mark.parametrize(("shape", "rank", "tasks"), [((64, 96), 2, 3), ((96, 64), 4, 2), ((40, 40), 1, 8)])
def test_of_tasks_that_the_sum_spans_it_is_iso_c(shape, rank, tasks):
    """What is left of such a task, as after LoRA, is rounding: it once gave directions of full weight."""
    draw = torch.manual_seed(0)
    up, down = (torch.randn(tasks, *x, generator=draw) for x in ((shape[0], rank), (rank, shape[1])))
    task_vectors = up @ down
    found = merge_task_vectors(IsoCts(), task_vectors)
    expected = merge_task_vectors(IsoC(), task_vectors)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    values = torch.linalg.svdvals(found)
    assert (values > values[0] * 1e-4).sum() == rank * tasks


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    for name, found in stream(check(MergeConfig("iso_cts", base, models, {"common": 0.5}))):
        rows = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert found.equal(merge_task_vectors(IsoCts(common=0.5), rows))
