"""The accumulator over task vectors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from saft.errors import UserError
from saft.interference import InterferenceAccumulator
from saft.interference import weights as module
from saft.interference.quantity import MEASURES
from tests.oracles import interference as oracles

TASKS = ["task0", "task1", "task2", "task3"]


@pytest.fixture
def vectors():
    return torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))


def compute(vectors, **options):
    accumulator = InterferenceAccumulator(TASKS[: len(vectors)], **options)
    accumulator.update(vectors)
    return accumulator.compute()


def test_result_is_plain_json_by_the_names_of_the_tasks(vectors):
    result = dataclasses.asdict(compute(vectors, thresholds=[1.0] * 4))
    assert json.loads(json.dumps(result["measured"], allow_nan=False)) == result["measured"]
    assert json.loads(json.dumps(result["quantities"]))["cosine"]["axes"] == ["task", "task"]
    assert result["tasks"] == TASKS
    assert result["n_entries"] == 1000
    assert list(result["measured"]["norm"]) == TASKS
    assert {len(row) for row in result["measured"]["cosine"].values()} == {4}


def test_everything_measured_says_what_it_is(vectors):
    for options in ({}, {"thresholds": [1.0] * 4}):
        result = compute(vectors, **options)
        assert set(result.measured) == set(result.quantities)
        shapes = {"set": float, "task": dict, "pair": dict}
        for name, quantity in result.quantities.items():
            assert quantity.meaning
            assert isinstance(result.measured[name], shapes[quantity.per])


def test_trimmed_is_the_measure_of_the_trimmed_vectors(vectors):
    thresholds = [0.5, 1.0, 2.0, 100.0]
    measured = compute(vectors, thresholds=thresholds).measured
    trimmed = oracles.trimmed(vectors.tolist(), thresholds)
    assert measured["sign_conflict_trimmed"] == pytest.approx(oracles.sign_conflict(trimmed)["sign_conflict"])
    assert list(measured["norm_trimmed"].values()) == pytest.approx(oracles.norm(trimmed)["norm"])
    assert list(measured["kept"].values()) == pytest.approx(
        [sum(x != 0 for x in row) / 1000 for row in trimmed]
    )
    assert measured["kept"]["task3"] == 0.0


def test_an_entry_of_just_the_threshold_is_kept():
    value = torch.tensor(0.1)  # not a double: the comparison must not round
    block = torch.stack([value, -value, value / 2]).reshape(1, 3)
    assert compute(block, thresholds=value.reshape(1)).measured["kept"]["task0"] == pytest.approx(2 / 3)


def test_without_thresholds_nothing_is_trimmed(vectors):
    measured = compute(vectors).measured
    assert "kept" not in measured
    assert not [name for name in measured if name.endswith("_trimmed")]


def test_large_blocks_are_taken_in_chunks(vectors, monkeypatch):
    whole = compute(vectors, thresholds=[1.0] * 4).measured
    monkeypatch.setattr(module, "CHUNK", 7)
    chunked = compute(vectors, thresholds=[1.0] * 4).measured
    assert chunked["kept"] == whole["kept"]
    assert chunked["sign_conflict"] == whole["sign_conflict"]
    assert chunked["norm"] == pytest.approx(whole["norm"], rel=1e-14)


def test_mistakes_of_the_caller_are_named(vectors):
    with pytest.raises(ValueError, match="each of 2 tasks"):
        InterferenceAccumulator(["a", "b"], thresholds=[1.0])
    with pytest.raises(ValueError, match="each of 2 tasks, not 4"):
        InterferenceAccumulator(["a", "b"]).update(vectors)
    with pytest.raises(UserError, match="no floating-point entry"):
        InterferenceAccumulator(["a", "b"]).compute()
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        InterferenceAccumulator(["a"], measures=["cosin"])
    with pytest.raises(UserError, match="measure 'sharpness': needs loss, and only weights are here"):
        InterferenceAccumulator(["a"], measures=["sharpness"])


def test_sums_are_float64():
    # In float32 the ones would vanish beside 1e8 and the cosine would be 1.
    measured = compute(torch.tensor([[1e8, 1.0], [1e8, -1.0]])).measured
    assert measured["sign_conflict"] == 0.5
    assert measured["sign_conflict_weighted"] == pytest.approx(1e-8)


def test_layers_are_in_the_order_of_their_numbers(vectors):
    accumulator = InterferenceAccumulator(TASKS, measures=["norm"])
    names = ["encoder.layer.10.a", "encoder.layer.2.a", "pooler.w", "decoder.layer.0.a", "encoder.layer.0.a"]
    for name in names:
        accumulator.update(vectors[:, :10], name)
    numbers = {"decoder": (0,), "encoder": (0, 2, 10)}
    layers = [f"{stack}.layer.{number}" for stack, some in numbers.items() for number in some]
    assert list(accumulator.compute().measured["norm_by_layer"]) == ["outside", *layers]


def test_layers_add_up_to_the_whole(vectors):
    accumulator = InterferenceAccumulator(TASKS, measures=["norm", "cosine", "sign_conflict"])
    parts = {"embeddings.w": (0, 300), "encoder.layer.0.a": (300, 500), "encoder.layer.0.b": (500, 600)}
    for name, (start, end) in (parts | {"encoder.layer.1.a": (600, 1000)}).items():
        accumulator.update(vectors[:, start:end], name)
    result = accumulator.compute()
    norms = result.measured["norm_by_layer"]
    assert list(norms) == ["outside", "encoder.layer.0", "encoder.layer.1"]
    assert norms["encoder.layer.0"]["task1"] == pytest.approx(vectors[1, 300:600].norm().item())
    squares = sum(by_task["task1"] ** 2 for by_task in norms.values())
    assert squares == pytest.approx(result.measured["norm"]["task1"] ** 2)
    first = vectors[:2, 600:].double()
    cosine = torch.nn.functional.cosine_similarity(first[0], first[1], dim=0).item()
    assert result.measured["cosine_by_layer"]["encoder.layer.1"]["task0"]["task1"] == pytest.approx(cosine)
    assert result.quantities["cosine_by_layer"].axes == ("layer", "task", "task")
    assert set(result.measured) == set(result.quantities)


@pytest.mark.parametrize("name", ["norm", "cosine", "sign_conflict", "overlap"])
def test_what_is_told_besides_is_what_a_measure_says_of_itself(name, vectors):
    accumulator = InterferenceAccumulator(TASKS, [0.1] * len(TASKS), [name])
    for layer in range(2):
        accumulator.update(vectors, f"encoder.layer.{layer}.a")
    measure = MEASURES.get(name)()
    result = accumulator.compute()
    assert set(result.measured) == {"kept", *measure.quantities, *measure.variants}
    assert all(result.quantities[figure] == quantity for figure, quantity in measure.variants.items())


def test_a_scalar_such_as_a_logit_scale_is_an_entry() -> None:
    accumulator = InterferenceAccumulator(["a", "b"], measures=["norm", "subspaces"])
    accumulator.update(torch.tensor([3.0, 0.0]), "logit_scale")
    accumulator.update(torch.tensor([[4.0], [1.0]]), "bias")
    result = accumulator.compute()
    assert result.measured["norm"] == {"a": 5.0, "b": 1.0}
    assert result.n_entries == 2
