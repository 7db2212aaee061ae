"""The overlap of what two tasks move: its definition is in tests/contracts/test_measures.py."""

from __future__ import annotations

import torch

from saft.interference import InterferenceAccumulator
from saft.interference.overlap import overlap


def test_a_task_that_moves_nothing_overlaps_with_none():
    assert overlap(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_trimmed_it_is_of_the_largest_entries():
    accumulator = InterferenceAccumulator(["a", "b"], thresholds=[2.0, 2.0], measures=["overlap"])
    accumulator.update(torch.tensor([[3.0, 2.0, 1.0, 1.0], [1.0, 2.0, -3.0, 1.0]]))
    measured = accumulator.compute().measured
    assert measured["overlap"]["a"]["b"] == 1.0
    assert measured["overlap_trimmed"]["a"]["b"] == 0.5
