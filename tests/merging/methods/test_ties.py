from __future__ import annotations

import pytest
import torch

from saft.merging.methods.ties import Ties
from saft.merging.stream.engine import merge_task_vectors
from tests.oracles import elementwise
from tests.oracles import merging as oracle


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.29, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("elect", ["mass", "normfrac", "normmass"])
def test_every_variant_equals_the_equations(count, density, elect):
    task_vectors = torch.randn(4, count, generator=torch.manual_seed(count)).mul(8).round() / 8
    for combine in ("mean", "sum", "max"):
        found = merge_task_vectors(Ties(density=density, elect=elect, combine=combine), task_vectors)
        expected = oracle.ties(task_vectors.numpy(), density, combine, elect)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=0)


def test_the_mean_and_the_sum_equal_the_equations_to_the_bit():
    task_vectors = torch.randn(5, 2000, generator=torch.manual_seed(1)) * 1e-3
    for combine in ("mean", "sum", "max"):
        found = merge_task_vectors(Ties(density=0.2, combine=combine), task_vectors)
        assert found.equal(torch.from_numpy(oracle.ties(task_vectors.numpy(), 0.2, combine)))


@pytest.mark.parametrize(
    ("density", "kept"), [(0.2, 201), (0.29, 291), (0.0001, 1), (0.999, 1000), (1.0, 1000)]
)
def test_one_more_entry_is_kept_than_the_density_says_as_in_the_authors_code(density, kept):
    task_vector = torch.randn(1, 1000, generator=torch.manual_seed(0))
    found = merge_task_vectors(Ties(density=density), task_vector)
    assert found.count_nonzero() == kept
    assert found.abs().max() == task_vector.abs().max()


def test_more_zeros_than_are_trimmed_lose_nothing():
    task_vectors = torch.randn(2, 1000) * (torch.rand(1000) < 0.1)
    assert merge_task_vectors(Ties(density=0.2), task_vectors).equal(
        merge_task_vectors(Ties(density=1.0), task_vectors)
    )


@pytest.mark.parametrize("weights", [(1.0, -0.5, -0.5), (0.7, -0.4, -0.3), (0.3, -0.1, -0.2)])
@pytest.mark.parametrize("arithmetic", [torch.float32, torch.float64])
def test_weights_that_add_up_to_zero_but_for_rounding_give_the_sum(weights, arithmetic):
    task_vectors = torch.tensor([[1.0], [-1.0], [-1.0]])
    found = merge_task_vectors(Ties(density=1, weights=weights), task_vectors, arithmetic=arithmetic)
    assert found.item() == pytest.approx(2 * weights[0])


@pytest.mark.parametrize("weights", [(0.5, 1.0, 2.0), (1.0, 3.0, 0.0), (-1.0, 1.0, 1.0)])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_weights_multiply_what_is_kept_before_the_election(weights, density):
    task_vectors = torch.randn(3, 300, generator=torch.manual_seed(0)).mul(8).round() / 8
    found = merge_task_vectors(Ties(density=density, weights=weights), task_vectors)
    expected = elementwise.weighted_ties(task_vectors.numpy(), density, weights)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
