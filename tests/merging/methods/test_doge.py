from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.doge import Doge
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 5), (2, 9), (20, 30), (30, 20)])
@pytest.mark.parametrize(("density", "iterations"), [(0.3, 0), (0.3, 40), (1.0, 400)])
def test_the_descent_and_the_trim_are_those_of_the_equations(tasks, shape, density, iterations):
    task_vectors = drawn(tasks, shape)
    found = merge_task_vectors(Doge(density=density, iterations=iterations, subspace=3), task_vectors)
    (expected,) = oracle.doge([task_vectors.double().numpy()], density, 0.07, 3, iterations, 1e-4)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-2, atol=1e-5)


def test_the_gradient_is_that_of_the_loss():
    task_vectors, scales = drawn(3, (6, 9)).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    change = torch.randn(6, 9, generator=torch.manual_seed(9)).double().requires_grad_()
    added = ((task_vectors + change) * scales.view(-1, 1, 1)).sum(dim=0)
    (task_vectors * (task_vectors - added)).sum(dim=2).square().sum().backward()
    expected = oracle.doge_gradient(change.detach().numpy(), task_vectors.numpy(), scales.tolist())
    torch.testing.assert_close(change.grad, torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2)])
def test_what_is_no_matrix_stays_the_base(shape):
    assert merge_task_vectors(Doge(), drawn(3, shape)).equal(torch.zeros(shape))


def test_a_task_of_zeros_is_left_out():
    alone = merge_task_vectors(Doge(iterations=0), drawn(1, (4, 6)))
    assert alone.count_nonzero() == 8  # int(0.3 * 24) + 1
    zeros = torch.zeros(1, 4, 6)
    assert merge_task_vectors(Doge(iterations=0), torch.cat([drawn(1, (4, 6)), zeros])).equal(alone)
    assert merge_task_vectors(Doge(), torch.cat([drawn(1, (4, 6)), zeros])).isfinite().all()


def test_all_matrices_are_trimmed_together(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    found = dict(stream(check(MergeConfig("doge", base, models, {"iterations": 5}))))
    names = [name for name in found if base_tensors[name].dim() == 2 and found[name].numel()]
    rows = [
        torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        for name in names
    ]
    expected = oracle.doge([row.double().numpy() for row in rows], 0.3, 0.07, 6, 5, 1e-4)
    for name, tensor in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name].double(), torch.from_numpy(tensor), rtol=1e-2, atol=1e-5)
    assert all(found[name].eq(0).all() for name in found if name not in names)


def test_the_entries_are_counted_exactly():
    """Beyond 2²⁴ float32 holds only every other whole number."""
    task_vectors = torch.ones(1).expand(1, 4097, 4097)
    asked = next(Doge().steps(1, task_vectors.numel()))
    assert asked.values(Block(task_vectors, task_vectors[0])).item() == 4097 * 4097


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e-20, 1e-13])
def test_a_task_of_nearly_nothing_is_left_out(size):
    alone, little = drawn(1, (4, 6)), drawn(1, (4, 6)) * size
    expected = merge_task_vectors(Doge(iterations=5), torch.cat([alone, torch.zeros(1, 4, 6)]))
    found = merge_task_vectors(Doge(iterations=5), torch.cat([alone, little]))
    torch.testing.assert_close(found, expected)
    assert merge_task_vectors(Doge(iterations=5), little).equal(torch.zeros(4, 6))
