"""Joint-task loss linearity against losses of models written out."""

from __future__ import annotations

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
