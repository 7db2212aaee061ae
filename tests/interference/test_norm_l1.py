"""The L1 norm: its definition is in tests/contracts/test_measures.py."""

from __future__ import annotations

import torch

from saft.interference import InterferenceAccumulator


def test_signs_and_zeros_do_not_count() -> None:
    accumulator = InterferenceAccumulator(["a", "b"], measures=["norm_l1"])
    accumulator.update(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
    assert accumulator.compute().measured == {"norm_l1": {"a": 3.0, "b": 0.0}}
