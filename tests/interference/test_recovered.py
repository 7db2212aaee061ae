"""What a merge keeps, against models written out."""

from __future__ import annotations

import pytest

from saft.interference.recovered import Recovered


def test_agrees_with_the_dense_models(space, dense):
    measured = Recovered().values(space)
    every = dict.fromkeys(space.tasks, 0.4)
    for t in space.tasks:
        base, expert, merged = dense.score(t, {}), dense.score(t, {t: 1.0}), dense.score(t, every)
        assert measured["base_score"][t] == pytest.approx(base)
        assert measured["expert_score"][t] == pytest.approx(expert)
        assert measured["merged_score"][t] == pytest.approx(merged)
        assert measured["room"][t] == pytest.approx(expert - merged)
        assert measured["room_error"][t] == pytest.approx(dense.paired_error(t, {t: 1.0}, every))
        if expert == base:
            assert t not in measured["recovered"]
        else:
            assert measured["recovered"][t] == pytest.approx((merged - base) / (expert - base))
    assert measured["score_error"] == dict.fromkeys(space.tasks, 0.1)
