"""Normalized accuracy."""

from __future__ import annotations

import pytest

from saft.interference import merged_accuracy


def test_absolute_normalized_and_gaps():
    result = merged_accuracy({"a": 0.6, "b": 0.9}, {"a": 0.8, "b": 0.9})
    assert result.absolute == pytest.approx(0.75)
    assert result.normalized == pytest.approx((0.75 + 1) / 2)  # the mean of ratios, not the ratio of means
    assert result.gaps == {"a": pytest.approx(0.2), "b": 0.0}


def test_an_expert_that_is_never_right_is_left_out_of_the_normalized_mean():
    result = merged_accuracy({"a": 0.4, "b": 0.1}, {"a": 0.8, "b": 0.0})
    assert result.ratios == {"a": 0.5, "b": None}
    assert result.normalized == 0.5
    assert result.absolute == pytest.approx(0.25)
    assert result.gaps["b"] == pytest.approx(-0.1)


def test_no_ratio_at_all():
    assert merged_accuracy({"a": 0.4}, {"a": 0.0}).normalized is None


def test_tasks_must_be_the_same():
    with pytest.raises(ValueError, match="same tasks"):
        merged_accuracy({"a": 0.4}, {"b": 0.4})
    with pytest.raises(ValueError, match="same tasks"):
        merged_accuracy({}, {})
