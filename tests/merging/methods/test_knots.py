from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.knots import Knots
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def adapters(tasks, shape, rank):
    """Task vectors of low rank, each in directions of its own."""
    draw = torch.manual_seed(tasks)
    rows, columns = shape
    return torch.randn(tasks, rows, rank, generator=draw) @ torch.randn(tasks, rank, columns, generator=draw)


@pytest.mark.parametrize("tasks", [1, 2, 4])
@pytest.mark.parametrize(
    ("shape", "rank"), [((20, 30), 3), ((30, 20), 3), ((6, 9), 6), ((1, 5), 1), ((5, 1), 1)]
)
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("combine", ["mean", "sum", "max"])
def test_the_coordinates_are_merged_by_ties(tasks, shape, rank, density, combine):
    task_vectors = adapters(tasks, shape, rank)
    found = merge_task_vectors(Knots(density=density, combine=combine), task_vectors)
    # What lies beyond the rank is rounding, and stays out of the oracle's trim as well.
    low_rank = torch.from_numpy(oracle.knots([task_vectors.double().numpy()], density, combine)[0])
    torch.testing.assert_close(found.double(), low_rank, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2)])
def test_what_is_no_matrix_stays_the_base(shape):
    assert merge_task_vectors(Knots(), torch.randn(3, *shape)).equal(torch.zeros(shape))


def test_one_task_of_which_all_is_kept_is_itself():
    task_vectors = adapters(1, (20, 30), 4)
    found = merge_task_vectors(Knots(density=1.0), task_vectors)
    torch.testing.assert_close(found, task_vectors[0], rtol=1e-4, atol=1e-5)


def test_the_result_lies_in_the_directions_of_the_tasks():
    task_vectors = adapters(3, (20, 30), 2)
    merged = merge_task_vectors(Knots(), task_vectors)
    assert torch.linalg.matrix_rank(torch.cat([*task_vectors, merged], dim=1), rtol=1e-4) == 6


def test_directions_of_little_weight_are_left_out_of_the_count():
    """A matrix of low rank that was rounded to few digits has more directions, of which none is meant."""
    task_vectors = adapters(2, (20, 30), 2)
    noisy = task_vectors + torch.randn(2, 20, 30, generator=torch.manual_seed(7)) * 1e-3
    expected = merge_task_vectors(Knots(), task_vectors)
    found = merge_task_vectors(Knots(smallest=1e-2), noisy)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    assert not merge_task_vectors(Knots(), noisy).allclose(expected, rtol=0, atol=0.1)


def test_a_task_of_zeros_is_left_out():
    task_vectors = adapters(2, (20, 30), 2)
    expected = merge_task_vectors(Knots(), task_vectors)
    with_zeros = torch.cat([task_vectors, torch.zeros(1, 20, 30)])
    torch.testing.assert_close(merge_task_vectors(Knots(), with_zeros), expected, rtol=1e-4, atol=1e-5)


def test_the_coordinates_of_all_matrices_are_trimmed_together(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    found = dict(stream(check(MergeConfig("knots", base, models))))
    names = sorted(name for name in found if base_tensors[name].dim() == 2 and found[name].numel())
    rows = [
        torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        for name in names
    ]
    expected = oracle.knots([row.double().numpy() for row in rows], 0.2, "mean")
    for name, tensor in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name].double(), torch.from_numpy(tensor), rtol=1e-3, atol=1e-5)
    assert all(found[name].eq(0).all() for name in found if name not in names)


def test_the_entries_are_counted_exactly():
    """Beyond 2²⁴ float32 holds only every other whole number."""
    task_vectors = torch.ones(1).expand(1, 1, 4097 * 4097)
    asked = next(Knots().steps(1, task_vectors.numel()))
    assert asked.values(Block(task_vectors, task_vectors[0])).item() == 4097 * 4097
