"""Joint-task loss linearity against losses of models written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from saft.interference.loss_linearity import LossLinearity


def test_agrees_with_the_dense_models(space, dense):
    measured = LossLinearity(grid=3).values(space)
    for s, row in measured["joint_loss_gap"].items():
        for t, line in row.items():
            joint = {
                a: dense.loss(s, {s: a, t: 1 - a}) + dense.loss(t, {s: a, t: 1 - a}) for a in (0.0, 0.5, 1.0)
            }
            assert list(line) == ["0", "0.5", "1"]
            assert line["0"] == line["1"] == 0.0
            assert line["0.5"] == pytest.approx(joint[0.5] - (joint[0.0] + joint[1.0]) / 2, abs=1e-5)
            assert measured["loss_barrier"][t][s] == max(line.values())


def test_a_loss_that_overflows_between_two_models_is_not_taken_for_no_barrier(space, monkeypatch):
    response = space.response

    def broken_between(task, point):
        whole = response(task, point)
        coefficients = [c for _, c in point.coefficients]
        return replace(whole, loss=math.nan) if 0.5 in coefficients else whole

    monkeypatch.setattr(space, "response", broken_between)
    assert math.isnan(LossLinearity(grid=3).values(space)["loss_barrier"]["a"]["b"])
