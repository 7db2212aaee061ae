"""One trunk that is moved through the space of its task vectors."""

from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.interference.task_space import BASE, Point, TaskSpace


def weights(space):
    return {name: value.clone() for name, value in space.trunk.state_dict().items()}


def test_a_move_goes_where_the_dense_sum_is(space, dense):
    for coefficients in ({}, {"a": 1.0}, {"a": -0.5, "c": 1.5}, {"a": 1.0, "b": 1.0, "c": 1.0}):
        space.move(Point.of(coefficients))
        for name, value in dense.weights(coefficients).items():
            assert torch.allclose(space.trunk.state_dict()[name], value, atol=1e-6)


def test_base_and_experts_are_met_to_the_bit(space):
    space.move(Point.of({"a": 0.3}))
    space.move(space.expert("b"))
    assert all(torch.equal(value, space.experts["b"][name]) for name, value in weights(space).items())
    space.move(BASE)
    assert all(torch.equal(value, space.base[name]) for name, value in weights(space).items())


def test_the_merge_is_scaled(space, dense):
    space.move(space.merged(["a", "c"]))
    expected = dense.weights({"a": 0.4, "c": 0.4})
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(space).items())


def test_a_place_that_was_seen_is_not_evaluated_again(space):
    first = space.response("a", space.expert("b"))
    space.score("a", space.expert("b"))
    space.move(BASE)
    before = space.probes["a"].forwards
    assert space.response("a", space.expert("b")) is first
    space.score("a", space.expert("b"))
    assert space.probes["a"].forwards == before


def test_a_shift_ends_with_the_next_move(space):
    shift = {name: torch.ones_like(value) for name, value in space.base.items()}
    shifted = space.shifted("a", space.expert("a"), shift)
    assert shifted.loss != space.response("a", space.expert("a")).loss
    space.move(space.expert("a"))
    assert all(torch.equal(value, space.experts["a"][name]) for name, value in weights(space).items())


def test_lower_is_better_turns_the_sign(space):
    assert space.better("a", 0.75, 0.5) == 0.25
    space.probes["a"].higher_is_better = False
    assert space.better("a", 0.75, 0.5) == -0.25


def test_what_is_not_there_is_told(space):
    bare = TaskSpace(space.trunk, space.base, space.experts, space.probes)
    with pytest.raises(UserError, match=r"merge: \{method"):
        bare.move(bare.merged())
    with pytest.raises(ValueError, match="has no parameter 'other'"):
        TaskSpace(space.trunk, {"other": torch.zeros(1)}, {}, {})
