"""Subspaces against singular value decompositions."""

from __future__ import annotations

import pytest
import torch

from saft.interference import InterferenceAccumulator
from saft.interference.subspaces import Subspaces, singular_interference, subspace_alignment


def low_rank(seed, rows, columns, rank):
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=draw, dtype=torch.float64) for n in (rows, columns))
    return left @ right.T + 1e-3 * torch.randn(rows, columns, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_alignment_agrees_with_the_decomposition(shape):
    matrices = torch.stack([low_rank(seed, *shape, rank=2 + seed) for seed in range(3)])
    aligned = subspace_alignment(matrices, error=0.05)
    for t in range(3):
        left, values, _ = torch.linalg.svd(matrices[t], full_matrices=False)
        total = values.square().sum()
        k = next(j for j in range(1, 7) if values[j:].square().sum() <= (0.05**2) * total)
        assert k < 6
        for s in range(3):
            inside = left[:, :k] @ left[:, :k].T @ matrices[s]
            assert aligned[s, t].item() == pytest.approx(
                (inside.norm() / matrices[s].norm()).item(), abs=1e-6
            )


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_singular_interference_agrees_with_the_decomposition(shape):
    matrices = torch.stack([low_rank(seed, *shape, rank=4) for seed in range(2)])
    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
    left = torch.cat([u[:, :3] for u, _, _ in parts], 1)
    right = torch.cat([v[:3] for _, _, v in parts], 0)
    values = torch.diag(torch.cat([s[:3] for _, s, _ in parts]))
    eye = torch.eye(6, dtype=torch.float64)
    expected = ((left.T @ left - eye) @ values @ (right @ right.T - eye)).abs().sum().item()
    assert singular_interference(matrices) == pytest.approx(expected, rel=1e-5)


def test_only_matrices_of_linear_layers_count_each_as_much():
    one, two = (torch.stack([low_rank(s, 4, 4, 2), low_rank(s + 9, 4, 4, 2)]).float() for s in (0, 1))
    accumulator = InterferenceAccumulator(["a", "b"], measures={"subspaces": Subspaces()})
    accumulator.update(one, "layer.0.query.weight")
    accumulator.update(two, "layer.1.query.weight")
    accumulator.update(torch.ones(2, 5, 4), "word_embeddings.weight")
    accumulator.update(torch.ones(2, 4), "layer.0.query.bias")
    measured = accumulator.compute().measured
    expected = (subspace_alignment(one.double()) + subspace_alignment(two.double())) / 2
    assert measured["subspace_alignment"]["a"]["b"] == pytest.approx(expected[0, 1].item())
    interference = (singular_interference(one.double()) + singular_interference(two.double())) / 2
    assert measured["singular_interference"] == pytest.approx(interference)


def test_a_matrix_of_zeros_is_aligned_with_none():
    matrices = torch.stack([torch.zeros(3, 3), torch.eye(3)]).double()
    assert subspace_alignment(matrices).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert singular_interference(matrices) == 0.0


def test_matrices_that_a_task_leaves_as_they_are_do_not_count():
    """An adapter of one matrix of many is as aligned with itself as a whole model, and not a part of it."""
    matrix = torch.stack([low_rank(s, 4, 4, 2) for s in range(2)])
    alone, among_others = (
        InterferenceAccumulator(["a", "b"], measures={"subspaces": Subspaces()}) for _ in "12"
    )
    for accumulator in (alone, among_others):
        accumulator.update(matrix, "layer.0.query.weight")
    among_others.update(torch.zeros(2, 4, 4), "layer.1.query.weight")
    assert among_others.compute().measured == alone.compute().measured
    among_others.update(matrix * torch.tensor([1.0, 0.0])[:, None, None], "layer.2.query.weight")
    alignment = among_others.compute().measured["subspace_alignment"]
    expected = subspace_alignment(matrix)
    assert alignment["a"]["b"] == pytest.approx(expected[0, 1].item() / 2)  # b has no direction there
    assert alignment["b"]["a"] == pytest.approx(expected[1, 0].item())
