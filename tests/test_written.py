"""Numbers as people read them."""

from __future__ import annotations

import pytest

from saft.interference.quantity import Quantity
from saft.report.over_seeds import OverSeeds, signed
from saft.tasks.metric import Metric
from saft.written import as_count, as_number


@pytest.mark.parametrize("value", [-0.5, -0.0004, 0.0, 1e7])
def test_every_table_writes_a_number_alike(value):
    text = as_number(value, 3)
    assert "-" not in text
    assert Metric("correlation", "", scale=1, digits=3).format(value) == text
    assert Quantity("example", decimals=3).format(value) == text
    assert OverSeeds({0: value}).written(decimals=3) == text
    assert signed(value, decimals=3).removeprefix("+") == text


def test_a_count_is_written_in_full():
    assert as_count(12_345_678.0) == "12345678"
    assert as_count(0.04) == "0"
