"""The transfer matrix against scores of models written out."""

from __future__ import annotations

import pytest

from saft.interference.transfer import Transfer


def test_agrees_with_the_dense_models(space, dense):
    measured = Transfer().values(space)
    for s in space.tasks:
        for t in space.tasks:
            assert measured["transfer"][s][t] == pytest.approx(dense.score(t, {s: 1.0}))
            gain = dense.score(t, {s: 1.0}) - dense.score(t, {})
            assert measured["transfer_gain"][s][t] == pytest.approx(gain)
            error = dense.paired_error(t, {s: 1.0}, {})
            assert measured["transfer_gain_error"][s][t] == pytest.approx(error)


def test_where_lower_is_better_a_gain_is_a_fall(space, dense):
    space.probes["b"].higher_is_better = False
    gain = Transfer().values(space)["transfer_gain"]["a"]["b"]
    assert gain == pytest.approx(dense.score("b", {}) - dense.score("b", {"a": 1.0}))
