from __future__ import annotations

from typing import Any

import pytest
import torch

from saft.errors import UserError
from saft.integrations.repeatable import PreparedInputs, RepeatableCall
from saft.optim.replay_flag import replaying


def test_a_call_gives_its_arguments_as_they_were() -> None:
    batch = {"x": torch.ones(2), "texts": ["a"]}
    call = RepeatableCall((batch,), {"n": 3})
    batch.pop("x")
    batch["texts"].append("b")  # type: ignore[attr-defined]
    (again,), keywords = call.again()
    assert keywords == {"n": 3}
    assert again["texts"] == ["a"]
    assert torch.equal(again["x"], torch.ones(2))


def test_a_tensor_changed_in_place_is_noticed() -> None:
    x = torch.ones(2)
    call = RepeatableCall(([x],), {})
    x.mul_(2)
    with pytest.raises(UserError, match=r"in place \(a tensor of shape \(2,\)\).*clone\(\)"):
        call.again()


def test_what_was_prepared_is_prepared_once_and_draws_its_random_numbers_once() -> None:
    prepared = PreparedInputs([torch.device("cpu")])
    first = [prepared.take(lambda: {"x": torch.rand(3)}) for _ in range(2)]
    mask = torch.rand(3)
    with replaying():
        second = [prepared.take(pytest.fail) for _ in range(2)]
        assert torch.equal(torch.rand(3), mask)
        with pytest.raises(UserError, match="more often than its first pass"):
            prepared.take(pytest.fail)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["x"], b["x"])


class Graph:
    """A batch as of torch_geometric: an object with attributes."""

    def __init__(self) -> None:
        self.x, self.name = torch.ones(2), "a"

    def to(self, device: Any) -> Graph:
        return self


def test_an_object_whose_attributes_a_call_replaces_is_given_as_it_was() -> None:
    graph = Graph()
    call = RepeatableCall(({"graph": graph},), {})
    graph.x = 2 * graph.x
    ((again,), _), x = call.again(), graph.x
    assert torch.equal(again["graph"].x, torch.ones(2))
    assert torch.equal(graph.x, x)
    again["graph"].x.mul_(2)
    with pytest.raises(UserError, match="changed its batch in place"):
        call.again()
