"""The loss over a plane against losses of models written out."""

from __future__ import annotations

import pytest

from saft.interference.disentanglement import Disentanglement
from saft.interference.loss_plane import LossPlane


def test_agrees_with_the_dense_models(space, dense):
    planes = LossPlane(grid=3, low=0.0, high=1.0).values(space)["loss_plane"]
    assert {s: list(row) for s, row in planes.items()} == {"a": ["b", "c"], "b": ["c"]}
    for s, row in planes.items():
        for t, plane in row.items():
            for first, line in plane.items():
                for second, loss in line.items():
                    at = {s: float(first), t: float(second)}
                    assert loss == pytest.approx((dense.loss(s, at) + dense.loss(t, at)) / 2, rel=1e-5)


def test_its_passes_are_those_of_the_disentanglement_error(space):
    Disentanglement(grid=3).values(space)
    before = sum(probe.forwards for probe in space.probes.values())
    LossPlane(grid=3).values(space)
    assert sum(probe.forwards for probe in space.probes.values()) == before
