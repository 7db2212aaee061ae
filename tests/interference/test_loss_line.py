"""The loss along a line against losses of models written out."""

from __future__ import annotations

import pytest

from saft.interference.loss_line import LossLine


def test_agrees_with_the_dense_models(space, dense):
    lines = LossLine(grid=5).values(space)["loss_line"]
    for task, line in lines.items():
        assert list(line) == ["-0.5", "0", "0.5", "1", "1.5"]
        for coefficient, loss in line.items():
            assert loss == pytest.approx(dense.loss(task, {task: float(coefficient)}), rel=1e-5)
