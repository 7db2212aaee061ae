"""The matrix of cosines."""

from __future__ import annotations

import torch

from saft.interference import cosine


def test_cosine_of_opposite_parallel_and_zero_vectors():
    one = torch.tensor([1.0, 2.0, 3.0])
    matrix = cosine(torch.stack([one, -2 * one, 0 * one]))
    assert matrix.tolist() == [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_task_vectors_of_any_shape_and_precision():
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cosine_similarity(vectors[0].flatten(), vectors[1].flatten(), dim=0)
    torch.testing.assert_close(cosine(vectors)[0, 1].float(), expected)
    assert torch.equal(cosine(vectors), cosine(vectors.flatten(1)))
    assert torch.equal(cosine(vectors.bfloat16()), cosine(vectors.bfloat16().double()))
