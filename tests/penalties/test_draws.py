"""Draws: which inputs each step reads, whoever asks."""

from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.penalties.draws import Draws
from saft.penalties.unlabelled import Unlabelled, drawn
from saft.tasks.examples import Batch, Examples
from tests.contracts.test_penalties import features, model_of, unlabelled


def draws(**options: object) -> Draws:
    sources = {"a": unlabelled(seed=1), "b": unlabelled(seed=2)}
    return Draws(
        **{"sources": sources, "kind": "others", "examples": 4, "distinct": None, "seed": 3} | options
    )  # type: ignore[arg-type]


def test_a_step_reads_the_same_inputs_of_one_task_whoever_asks() -> None:
    one, trunk = draws(), model_of().trunk
    for step in range(20):
        name, indices = drawn({"a": 40, "b": 40}, 4, 3, step)
        source, inputs = one.of_step(trunk, step)
        assert one.task(step) == name
        assert source is one.sources[name]
        expected = source.inputs(indices, torch.device("cpu"))
        assert all(torch.equal(inputs[key], value) for key, value in expected.items())
    assert {one.task(step) for step in range(20)} == {"a", "b"}


def test_fewer_inputs_than_are_asked_for_are_all_read_and_none_is_refused() -> None:
    trunk = model_of().trunk
    _, inputs = draws(distinct=3).of_step(trunk, 0)
    assert len(inputs["input_ids"]) == 3
    empty = Unlabelled(features, Examples([], lambda indices: Batch({}, torch.zeros(0))))
    with pytest.raises(UserError, match="penalty: inputs: task 'b' has no training examples"):
        draws(sources={"a": unlabelled(), "b": empty})


@pytest.mark.parametrize("kind", ["own_shuffled", "random_tokens"])
def test_made_up_texts_are_the_same_at_every_call(kind: str) -> None:
    trunk = model_of().trunk
    trunk.get_input_embeddings = lambda: trunk.embed
    first, again, other = (draws(kind=kind).of_step(trunk, step)[1]["input_ids"] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
