"""Disentanglement error against predictions of models written out."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.interference.disentanglement import Disentanglement


def test_agrees_with_the_dense_models(space, dense):
    measured = Disentanglement(grid=3, low=-1.0, high=1.0).values(space)
    assert list(measured["disentanglement_error"]) == ["a", "b"]
    for s, row in measured["disentanglement_error"].items():
        for t, grid in row.items():
            every = []
            for first, values in grid.items():
                for second, error in values.items():
                    both = {s: float(first), t: float(second)}
                    apart = [
                        sum(
                            x != y
                            for x, y in zip(
                                dense.predictions(u, {u: both[u]}), dense.predictions(u, both), strict=True
                            )
                        )
                        / 12
                        for u in (s, t)
                    ]
                    assert error == pytest.approx(sum(apart) / 2)
                    every.append(error)
            assert len(every) == 9
            assert measured["disentanglement"][s][t] == pytest.approx(sum(every) / 9)
            assert measured["disentanglement"][t][s] == measured["disentanglement"][s][t]


def test_a_vector_of_zeros_disturbs_nothing(space):
    space.experts["b"].update({name: value.clone() for name, value in space.base.items()})
    error = Disentanglement(grid=3, low=-0.5).values(space)["disentanglement_error"]["a"]["b"]
    # What b is told at a task vector of a is another matter: b's own line stays at the base.
    assert error["-0.5"]["1.5"] == error["-0.5"]["0.5"]


def test_ranges_are_checked():
    with pytest.raises(UserError, match="grid: must be at least 2"):
        Disentanglement(grid=1)
