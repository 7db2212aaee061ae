"""What is left of each task vector in a merge."""

from __future__ import annotations

import pytest
import torch

from saft.interference import InterferenceAccumulator
from saft.interference import weights as module


def test_agrees_with_the_definition_however_it_is_cut(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    vectors = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    vectors[2] = 0
    merged = 0.3 * vectors.sum(0)
    accumulator = InterferenceAccumulator(["a", "b", "c"], measures=["survival"])
    accumulator.update(vectors[:, :25], "one", merged[:25])
    accumulator.update(vectors[:, 25:].reshape(3, 3, 5), "two", merged[25:])
    measured = accumulator.compute().measured
    for row, task in enumerate("ab"):
        share = (merged @ vectors[row] / vectors[row].square().sum()).item()
        cosine = torch.nn.functional.cosine_similarity(merged, vectors[row], dim=0).item()
        assert measured["survival"][task] == pytest.approx(share, rel=1e-5)
        assert measured["merge_cosine"][task] == pytest.approx(cosine, rel=1e-5)
    assert measured["survival"]["c"] == measured["merge_cosine"]["c"] == 0.0


def test_without_a_merge_nothing_is_said_of_it():
    accumulator = InterferenceAccumulator(["a", "b"], measures=["norm", "survival"])
    accumulator.update(torch.ones(2, 3))
    result = accumulator.compute()
    assert set(result.measured) == set(result.quantities) == {"norm"}
