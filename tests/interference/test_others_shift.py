"""The shift that merging makes, against losses of models written out, and against random shifts."""

from __future__ import annotations

import pytest

from saft.interference.others_shift import OthersShift


def test_agrees_with_the_dense_models(space, dense):
    measured = OthersShift(coefficient=0.5).values(space)
    for t in space.tasks:
        own, others = dense.loss(t, {t: 1.0}), [s for s in space.tasks if s != t]
        for s in others:
            rise = dense.loss(t, {t: 1.0, s: 0.5}) - own
            assert measured["shift_by_other"][t][s] == pytest.approx(rise, abs=1e-5)
        rise = dense.loss(t, {t: 1.0} | dict.fromkeys(others, 0.5)) - own
        assert measured["shift_by_others"][t] == pytest.approx(rise, abs=1e-5)


def test_random_shifts_are_as_long_as_the_others_and_follow_the_seed(space):
    lengths = []
    shifted = space.shifted

    def recorded(task, point, shift):
        lengths.append(sum(part.square().sum().item() for part in shift.values()) ** 0.5)
        return shifted(task, point, shift)

    space.shifted = recorded
    first = OthersShift(coefficient=0.5, samples=3).values(space)["shift_at_random"]
    norms = {
        task: sum(part.square().sum().item() for part in space.task_vector(task).values()) ** 0.5
        for task in space.tasks
    }
    assert lengths[:3] == pytest.approx([0.5 * (norms["b"] + norms["c"]) / 2] * 3, rel=1e-5)
    assert OthersShift(coefficient=0.5, samples=3).values(space)["shift_at_random"] == first
    assert OthersShift(coefficient=0.5, samples=3, seed=1).values(space)["shift_at_random"] != first
