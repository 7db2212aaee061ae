"""Norms of task vectors."""

from __future__ import annotations

import torch

from saft.interference import norm


def test_norms_are_taken_over_all_dimensions_in_float64():
    vectors = torch.full((2, 1000, 1000), 0.1, dtype=torch.bfloat16)
    assert norm(vectors).dtype == torch.float64
    torch.testing.assert_close(norm(vectors), vectors.double().flatten(1).norm(dim=1))
