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
