"""How a measured number is printed, and what registered measures tell of themselves."""

from __future__ import annotations

import math

import pytest

from saft.interference.quantity import Quantity, numbers_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (0.0, "0.00"),
        (1e-18, "0.00"),
        (1e-9, "0.000000001"),
        (-0.05, "−0.0500"),
        (math.inf, "–"),
        (math.nan, "–"),
    ],
)
def test_three_significant_digits(value, text):
    assert Quantity("a length").format(value) == text


def test_scale_and_decimals():
    assert Quantity("a share", "%", scale=100, decimals=1).format(0.12345) == "12.3"
    assert Quantity("a share", "%", scale=100).format(0.0012345) == "0.123"


def test_zero_has_no_sign():
    share = Quantity("a share", "%", scale=100, decimals=1)
    assert [share.format(value) for value in (-0.0, -0.0001, -0.001)] == ["0.0", "0.0", "−0.1"]


def test_numbers_come_with_the_tasks_that_they_are_of():
    assert list(numbers_of(None)) == []
    assert list(numbers_of(0.5)) == [((), 0.5)]
    assert list(numbers_of({"a": 1, "b": {"c": 2.0}})) == [(("a",), 1), (("b", "c"), 2.0)]
