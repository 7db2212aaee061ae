from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.wudi import Wudi
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def drawn(tasks, shape):
    return torch.randn(tasks, *shape, generator=torch.manual_seed(tasks)) * 1e-2


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (20, 30), (30, 20)])
@pytest.mark.parametrize(("steps", "learning_rate"), [(0, 1e-5), (30, 1e-5), (300, 1e-5), (100, 1e-4)])
def test_the_descent_is_that_of_the_equations(tasks, shape, steps, learning_rate):
    task_vectors = drawn(tasks, shape)
    method = Wudi(iterations=steps, learning_rate=learning_rate)
    found = merge_task_vectors(method, task_vectors)
    expected = torch.from_numpy(oracle.wudi(task_vectors.double().numpy(), steps, learning_rate))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=learning_rate / 10)


def test_the_gradient_is_that_of_the_loss():
    task_vectors = drawn(3, (6, 9)).double()
    point = torch.randn(6, 9, generator=torch.manual_seed(9)).double().requires_grad_()
    loss = sum(((point - tau) @ tau.T).square().sum() / tau.square().sum() for tau in task_vectors)
    loss.backward()
    expected = oracle.wudi_gradient(point.detach().numpy(), task_vectors.numpy())
    torch.testing.assert_close(point.grad, torch.from_numpy(expected))


def test_a_long_descent_ends_where_no_task_is_disturbed():
    """The rows of the tasks are independent here, so that the loss can be zero."""
    task_vectors = drawn(3, (4, 30))
    merged = merge_task_vectors(Wudi(iterations=3000, learning_rate=1e-4), task_vectors)
    for tau in task_vectors:
        disturbance = ((merged - tau) @ tau.T).norm()
        assert disturbance < 1e-2 * ((task_vectors.sum(dim=0) - tau) @ tau.T).norm()


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 2)])
def test_what_is_no_matrix_is_averaged(shape):
    task_vectors = drawn(3, shape)
    torch.testing.assert_close(merge_task_vectors(Wudi(), task_vectors), task_vectors.mean(dim=0))


def test_one_task_is_itself():
    task_vectors = drawn(1, (20, 30))
    assert merge_task_vectors(Wudi(), task_vectors).equal(task_vectors[0])


def test_a_task_of_zeros_changes_nothing():
    task_vectors = drawn(2, (20, 30))
    with_zeros = torch.cat([task_vectors, torch.zeros(1, 20, 30)])
    assert merge_task_vectors(Wudi(), with_zeros).equal(merge_task_vectors(Wudi(), task_vectors))


def test_tiny_task_vectors_do_not_overflow():
    assert merge_task_vectors(Wudi(), drawn(2, (5, 6)) * 1e-30).isfinite().all()


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    for name, found in stream(check(MergeConfig("wudi", base, models, {"iterations": 20}))):
        rows = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert found.equal(merge_task_vectors(Wudi(iterations=20), rows))
