"""Signs of task vectors that differ."""

from __future__ import annotations

import pytest
import torch

from saft.interference import sign_conflict


def test_counts_only_what_two_tasks_move():
    vectors = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 3.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    conflict = sign_conflict(vectors)
    assert conflict["sign_conflict"] == 1 / 2  # coordinate 0 of coordinates 0 and 1
    assert conflict["sign_conflict_by_chance"] == (3 / 4 + 1 / 2) / 2
    assert conflict["sign_conflict_weighted"] == pytest.approx(1 - (1 + 4 + 2) / (3 + 4 + 2))


def test_independent_signs_conflict_as_often_as_chance_says():
    conflict = sign_conflict(torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)))
    assert conflict["sign_conflict_by_chance"] == 7 / 8
    assert conflict["sign_conflict"] == pytest.approx(7 / 8, abs=0.04)
