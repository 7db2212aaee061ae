"""Means, spreads and intervals over seeds."""

from __future__ import annotations

import math
import statistics

import pytest

from saft.report.over_seeds import OverSeeds, signed


def test_one_seed_has_a_mean_and_no_spread():
    one = OverSeeds({7: 0.5})
    assert (one.mean, one.n, one.deviation, one.interval) == (0.5, 1, None, None)
    assert one.written(100, 1) == "50.0"


def test_deviation_divides_by_n_minus_one():
    values = {0: 0.70, 1: 0.74, 2: 0.75}
    assert OverSeeds(values).deviation == pytest.approx(statistics.stdev(values.values()))
    assert OverSeeds(values).written(100, 1) == "73.0 ± 2.6"


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (11, 2.228), (40, 2.0227)])
def test_interval_is_students(n, quantile):
    values = OverSeeds({seed: 0.5 + 0.01 * (seed % 3) for seed in range(n)})
    low, high = values.interval
    assert high - low == pytest.approx(2 * quantile * values.deviation / math.sqrt(n), rel=1e-4)
    assert (low + high) / 2 == pytest.approx(values.mean)


def test_difference_is_paired_by_seed():
    # The seeds differ by 10 points, the arms by 1 on every seed: paired, there is no spread.
    one, other = OverSeeds({0: 0.71, 1: 0.81, 2: 0.9}), OverSeeds({1: 0.80, 0: 0.70, 5: 0.1})
    difference = one.minus(other)
    assert set(difference.by_seed) == {0, 1}
    assert difference.mean == pytest.approx(0.01)
    assert difference.deviation == pytest.approx(0, abs=1e-12)
    assert one.minus(OverSeeds({9: 0.5})) is None


def test_differences_have_their_sign():
    assert signed(-0.00049, 100) == "0.0"
    assert signed(-0.05, 100) == "−5.0"
    assert signed(0.25, 1, 2) == "+0.25"
