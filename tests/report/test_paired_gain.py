from __future__ import annotations

import pytest

from saft.report.paired_gain import PairedGain


def test_the_interval_is_students_t_over_the_groups() -> None:
    gain = PairedGain([0.0, 0.02])
    assert gain.interval == pytest.approx((0.01 - 12.7062 * 0.01, 0.01 + 12.7062 * 0.01))
    assert not gain.is_sure


def test_a_difference_without_spread_is_sure() -> None:
    assert PairedGain([0.01, 0.01]).is_sure
    assert not PairedGain([0.0, 0.0]).is_sure


def test_one_group_says_nothing() -> None:
    assert PairedGain([0.01]).interval is None
    assert not PairedGain([0.01]).is_sure
