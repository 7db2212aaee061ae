"""The average rise, and its error."""

from __future__ import annotations

import math

import pytest

from saft.interference.random_sharpness import RandomSharpness
from saft.interference.sharpness import average_sharpness


def test_is_the_average_with_the_error_of_its_mean(space):
    probe = space.probes["a"]
    measured = RandomSharpness(radius=0.5, n_samples=6, seed=3).values(space.trunk, probe.loss, probe.batches)
    average = average_sharpness(space.trunk, probe.loss, probe.batches, 0.5, n_samples=6, seed=3)
    assert measured["random_sharpness"] == average.average
    assert measured["random_sharpness_error"] == pytest.approx(average.deviation / math.sqrt(6))


def test_one_direction_has_no_error(space):
    probe = space.probes["a"]
    measured = RandomSharpness(n_samples=1).values(space.trunk, probe.loss, probe.batches)
    assert list(measured) == ["random_sharpness"]
