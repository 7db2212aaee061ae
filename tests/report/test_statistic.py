"""Means, spreads and intervals over seeds."""

from __future__ import annotations

import math
import statistics

import pytest

from saft.report.statistic import Statistic, interval, signed


def test_one_seed_has_a_mean_and_no_spread():
    one = Statistic({7: 0.5})
    assert (one.mean, one.n, one.deviation, one.interval) == (0.5, 1, None, None)
    assert one.percent() == "50.0"
    assert one.significant() == "0.500"


def test_deviation_divides_by_n_minus_one():
    values = {0: 0.70, 1: 0.74, 2: 0.75}
    assert Statistic(values).deviation == pytest.approx(statistics.stdev(values.values()))
    assert Statistic(values).percent() == "73.0 ± 2.6"


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (11, 2.228), (40, 2.228)])
def test_interval_is_students(n, quantile):
    statistic = Statistic({seed: 0.5 + 0.01 * (seed % 3) for seed in range(n)})
    low, high = statistic.interval
    assert high - low == pytest.approx(2 * quantile * statistic.deviation / math.sqrt(n))
    assert (low + high) / 2 == pytest.approx(statistic.mean)


def test_difference_is_paired_by_seed():
    # The seeds differ by 10 points, the arms by 1 on every seed: paired, there is no spread.
    one, other = Statistic({0: 0.71, 1: 0.81, 2: 0.9}), Statistic({1: 0.80, 0: 0.70, 5: 0.1})
    difference = one.minus(other)
    assert set(difference.by_seed) == {0, 1}
    assert difference.mean == pytest.approx(0.01)
    assert difference.deviation == pytest.approx(0, abs=1e-12)
    assert one.minus(Statistic({9: 0.5})) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (0.0, "0.00"),
        (-0.05, "-0.0500"),
    ],
)
def test_significant_digits(value, text):
    assert Statistic({0: value}).significant() == text


def test_points():
    assert signed(-0.00049) == "0.0"
    assert signed(-0.05) == "−5.0"
    assert interval((-0.01, 0.02)) == "−1.0 to +2.0"
