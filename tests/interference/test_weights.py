"""The accumulator over task vectors, and what is peculiar to each measure."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from saft.errors import UserError
from saft.interference import WeightMeasurement
from saft.interference import weights as module
from tests.oracles import interference as oracles


@pytest.fixture
def vectors():
    return torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))


def compute(vectors, **options):
    measurement = WeightMeasurement([f"task{i}" for i in range(len(vectors))], **options)
    measurement.update(vectors)
    return measurement.compute()


def test_result_is_plain_json_with_the_tasks_in_order(vectors):
    result = dataclasses.asdict(compute(vectors, thresholds=[1.0] * 4))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["tasks"] == ["task0", "task1", "task2", "task3"]
    assert result["n_entries"] == 1000


def test_trimmed_is_the_measure_of_the_trimmed_vectors(vectors):
    thresholds = [0.5, 1.0, 2.0, 100.0]
    result = compute(vectors, thresholds=thresholds)
    trimmed = oracles.trimmed(vectors.tolist(), thresholds)
    assert result.trimmed["sign_conflict"] == pytest.approx(oracles.sign_conflict(trimmed))
    assert result.trimmed["norm"]["l2"] == pytest.approx(oracles.norm(trimmed)["l2"])
    assert result.kept == pytest.approx([sum(x != 0 for x in row) / 1000 for row in trimmed])
    assert result.kept[3] == 0.0


def test_an_entry_of_just_the_threshold_is_kept():
    value = torch.tensor(0.1)  # not a double: the comparison must not round
    result = compute(torch.stack([value, -value, value / 2]).reshape(1, 3), thresholds=value.reshape(1))
    assert result.kept == pytest.approx([2 / 3])


def test_without_thresholds_nothing_is_trimmed(vectors):
    result = compute(vectors)
    assert result.trimmed is None
    assert result.kept is None


def test_large_blocks_are_taken_in_chunks(vectors, monkeypatch):
    whole = compute(vectors, thresholds=[1.0] * 4)
    monkeypatch.setattr(module, "CHUNK", 7)
    chunked = compute(vectors, thresholds=[1.0] * 4)
    assert chunked.kept == whole.kept
    assert chunked.whole["sign_conflict"]["rate"] == whole.whole["sign_conflict"]["rate"]
    assert chunked.whole["norm"]["l2"] == pytest.approx(whole.whole["norm"]["l2"], rel=1e-14)


def test_mistakes_of_the_caller_are_named(vectors):
    with pytest.raises(ValueError, match="each of 2 tasks"):
        WeightMeasurement(["a", "b"], thresholds=[1.0])
    with pytest.raises(ValueError, match="each of 2 tasks, not 4"):
        WeightMeasurement(["a", "b"]).update(vectors)
    with pytest.raises(UserError, match="no floating-point entry"):
        WeightMeasurement(["a", "b"]).compute()


def test_sums_are_float64():
    # In float32 the ones would vanish beside 1e8 and the cosine would be 1.
    block = torch.tensor([[1e8, 1.0], [1e8, -1.0]])
    result = compute(block)
    assert result.whole["sign_conflict"] == {"rate": 0.5, "by_chance": 0.5, "weighted": pytest.approx(1e-8)}


def test_cosine_of_opposite_parallel_and_zero_vectors():
    one = torch.tensor([1.0, 2.0, 3.0])
    cosine = compute(torch.stack([one, -2 * one, 0 * one])).whole["cosine"]
    assert cosine == [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_sign_conflict_counts_only_what_two_tasks_move():
    block = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 3.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    conflict = compute(block).whole["sign_conflict"]
    assert conflict["rate"] == 1 / 2  # coordinate 0 of coordinates 0 and 1
    assert conflict["by_chance"] == (3 / 4 + 1 / 2) / 2
    assert conflict["weighted"] == pytest.approx(1 - (1 + 4 + 2) / (3 + 4 + 2))


def test_independent_signs_conflict_as_often_as_chance_says(vectors):
    conflict = compute(vectors).whole["sign_conflict"]
    assert conflict["by_chance"] == 7 / 8
    assert conflict["rate"] == pytest.approx(7 / 8, abs=0.04)
