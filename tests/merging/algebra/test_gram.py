"""Inner products and combinations against the whole vectors in float64."""

from __future__ import annotations

import pytest
import torch

from saft.merging.algebra import gram
from saft.merging.stream.block import Block


@pytest.fixture(params=[(6,), (4, 5), (3, 2, 2)], ids=str)
def block(request: pytest.FixtureRequest) -> Block:
    torch.manual_seed(0)
    return Block(torch.randn(3, *request.param), torch.randn(request.param) * 10, "weight")


@pytest.mark.parametrize("columns", [1, 4, 1 << 20])
def test_products_are_those_of_the_whole_vectors(
    block: Block, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "_COLUMNS", columns)  # read in parts or at once
    moves = block.task_vectors.double()
    weights = moves + block.base.double()
    for center, vectors in (("zero", weights.flatten(1)), ("base", moves.flatten(1))):
        torch.testing.assert_close(gram.around(block, center), vectors @ vectors.T)
    if block.base.ndim > 1:
        rows = moves.flatten(2)
        torch.testing.assert_close(gram.of_rows(block), torch.einsum("irk,jrk->rij", rows, rows))


def test_combinations_are_those_of_the_whole_vectors(block: Block) -> None:
    coefficients = torch.tensor([0.5, -0.2, 1.1], dtype=torch.float64)
    moves, base = block.task_vectors.double(), block.base.double()
    about_base = torch.tensordot(coefficients, moves, 1)
    about_zero = torch.tensordot(coefficients, moves + base, 1) - base
    for center, expected in (("base", about_base), ("zero", about_zero)):
        result = gram.combination_around(block, center, coefficients)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
