"""Representation bias against features of models written out."""

from __future__ import annotations

import pytest

from saft.interference.representation_bias import RepresentationBias


def test_agrees_with_the_dense_models(space, dense):
    measured = RepresentationBias().values(space)
    every = dict.fromkeys(space.tasks, 0.4)
    for task in space.tasks:
        difference = (dense.features(task, every) - dense.features(task, {task: 1.0})).abs()
        assert measured["representation_bias"][task] == pytest.approx(difference.mean().item(), rel=1e-4)
        assert 0 < measured["representation_turn"][task] < 4
