"""Sharpness at several radii is the sharpness at each."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.interference.sharpness import worst_case_sharpness
from saft.interference.sharpness_by_radius import SharpnessByRadius


def test_each_radius_is_measured_by_itself(space):
    probe = space.probes["a"]
    measure = SharpnessByRadius(radii=(0.1, 0.5), adaptive_radii=(0.2,), n_steps=3)
    measured = measure.values(space.trunk, probe.loss, probe.batches)
    for rho in (0.1, 0.5):
        alone = worst_case_sharpness(space.trunk, probe.loss, probe.batches, rho, n_steps=3)
        assert measured["sharpness_by_radius"][f"{rho:g}"] == pytest.approx(alone.worst_case)
    adaptive = worst_case_sharpness(space.trunk, probe.loss, probe.batches, 0.2, adaptive=True, n_steps=3)
    assert measured["adaptive_sharpness_by_radius"] == {"0.2": pytest.approx(adaptive.worst_case)}


@pytest.mark.parametrize("radii", [(), (0.1, 0.1), (0.0,), (-1.0,)])
def test_radii_are_checked(radii):
    with pytest.raises(UserError, match="radii"):
        SharpnessByRadius(radii=radii)
