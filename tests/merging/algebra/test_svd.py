from __future__ import annotations

import pytest
import torch

from saft.merging.algebra.svd import decompose, polar

SHAPES = [(1, 1), (1, 7), (6, 1), (20, 20), (30, 12), (12, 30)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_exact_as_a_decomposition_in_float64(shape):
    matrix = torch.randn(shape, generator=torch.manual_seed(0))
    left, values, right = decompose(matrix)
    torch.testing.assert_close(left * values @ right, matrix.double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix.double()), rtol=1e-9, atol=1e-9)
    for vectors in (left.T @ left, right @ right.T):
        torch.testing.assert_close(vectors, torch.eye(len(values)).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
@pytest.mark.parametrize("most", [None, 3, 0])
def test_directions_that_are_not_there_are_left_out(shape, most):
    draw = torch.manual_seed(0)
    matrix = torch.randn(shape[0], 5, generator=draw) @ torch.randn(5, shape[1], generator=draw)
    left, values, right = decompose(matrix, most)
    rank = 5 if most is None else most
    assert (left.shape, values.shape, right.shape) == ((shape[0], rank), (rank,), (rank, shape[1]))
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix.double())[:rank])


def test_zeros_have_no_direction():
    left, values, right = decompose(torch.zeros(3, 4))
    assert (left.shape, values.shape, right.shape) == ((3, 0), (0,), (0, 4))
    assert polar(torch.zeros(3, 4)).equal(torch.zeros(3, 4).double())
    assert polar(torch.zeros(3, 0)).shape == (3, 0)


def test_small_singular_values_are_kept_down_to_the_rounding_of_float32():
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=torch.manual_seed(at)))[0] for at in (0, 1))
    values = torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-8, 0.0]).double()
    matrix = left.double() * values @ right.double()
    assert len(decompose(matrix)[1]) == 6
    torch.testing.assert_close(decompose(matrix)[1], values[:6], rtol=1e-4, atol=0)


def test_what_is_rounding_beside_a_larger_matrix_is_left_out():
    assert len(decompose(torch.eye(3) * 1e-8)[1]) == 3
    assert len(decompose(torch.eye(3) * 1e-8, beside=1.0)[1]) == 0
    assert len(decompose(torch.eye(3), beside=1e-8)[1]) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_the_polar_factor_is_that_of_the_decomposition(shape):
    matrix = torch.randn(shape, generator=torch.manual_seed(1)).double()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(polar(matrix), left @ right, rtol=0, atol=1e-8)
