from __future__ import annotations

import pytest
import torch

from saft.merging.methods.karcher import Karcher
from saft.merging.methods.slerp import Slerp
from saft.merging.stream.engine import merge_task_vectors
from tests.oracles import matrix as oracle


def drawn(tasks, spread, shape=(20, 30)):
    draw = torch.manual_seed(tasks)
    return torch.randn(shape, generator=draw), torch.randn(tasks, *shape, generator=draw) * spread


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 10.0])
@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_the_iteration_equals_the_one_on_whole_vectors(tasks, spread, iterations):
    base, task_vectors = drawn(tasks, spread)
    found = merge_task_vectors(Karcher(iterations=iterations, tolerance=1e-9), task_vectors, base)
    weights = (base.double() + task_vectors.double()).numpy()
    expected = torch.from_numpy(oracle.karcher(weights, iterations)) - base
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * spread)


def test_the_sum_of_the_logarithms_is_zero_at_the_result():
    base, task_vectors = drawn(4, 2.0)
    merged = (base + merge_task_vectors(Karcher(iterations=50), task_vectors, base)).double().numpy()
    weights = (base.double() + task_vectors.double()).numpy()
    units = [weight / oracle.norm(weight) for weight in weights]
    gradient = oracle.karcher_gradient(merged / oracle.norm(merged), units)
    assert oracle.norm(gradient) < 1e-5
    assert oracle.norm(merged) == pytest.approx(sum(map(oracle.norm, weights)) / 4, rel=1e-5)


def test_of_two_models_of_one_norm_it_is_the_middle_of_the_arc():
    task_vectors = torch.tensor([[3.0, 0.0, 4.0], [0.0, 5.0, 0.0]])
    found = merge_task_vectors(Karcher(), task_vectors)
    torch.testing.assert_close(found, merge_task_vectors(Slerp(), task_vectors))


def test_a_tensor_of_zeros_has_no_direction_but_a_norm():
    found = merge_task_vectors(Karcher(), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert found.tolist() == [1.0, 0.0]
    assert merge_task_vectors(Karcher(), torch.zeros(2, 3) - 1, torch.ones(3)).equal(-torch.ones(3))


def test_opposite_models_give_the_direction_of_the_first():
    found = merge_task_vectors(Karcher(), torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
@pytest.mark.parametrize("tasks", [2, 3, 4, 5, 7])
def test_models_on_one_line_give_its_direction_and_their_mean_norm(tasks, size):
    """A model opposite to the mean pulls nowhere; rounding once chose a direction of any length for it."""
    for seed in range(20):
        draw = torch.manual_seed(seed)
        line = torch.randn(size, generator=draw)
        lengths = torch.rand(tasks, 1, generator=draw) + 0.1
        signs = torch.tensor([1.0, -1.0] * tasks)[:tasks].unsqueeze(1)
        found = merge_task_vectors(Karcher(), signs * lengths * line)
        # As many one way as the other: the first model's way; else that of the more.
        torch.testing.assert_close(found, line * lengths.mean(), rtol=1e-4, atol=1e-6)
