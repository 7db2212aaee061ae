"""Merges of pairs against merges written out."""

from __future__ import annotations

import pytest

from saft.interference.pairwise import Pairwise


def test_agrees_with_the_dense_merges(space, dense):
    measured = Pairwise().values(space)
    losses = measured["pair_loss"]
    for t in space.tasks:
        assert set(losses[t]) == set(space.tasks) - {t}
        for s, loss in losses[t].items():
            expected = dense.score(t, {t: 1.0}) - dense.score(t, {t: 0.4, s: 0.4})
            assert loss == pytest.approx(expected)
            harm = dense.score(t, {t: 0.4}) - dense.score(t, {t: 0.4, s: 0.4})
            assert measured["pair_harm"][t][s] == pytest.approx(harm)
            both = {t: 0.4, s: 0.4}
            for name, before in (("pair_loss_error", {t: 1.0}), ("pair_harm_error", {t: 0.4})):
                assert measured[name][t][s] == pytest.approx(dense.paired_error(t, before, both))


def test_each_place_is_gone_to_once(space):
    moves = []
    move = space.move
    space.move = lambda point: (moves.append(point), move(point))
    Pairwise().values(space)
    assert len(moves) == 6 + 6  # each task at its own model and scaled; both tasks of each pair
    assert len({point for point in moves if point.merged}) == 3
