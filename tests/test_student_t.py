"""Student's t is that of the tables."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from saft.student_t import student_t


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.995, 2, 9.9248),
        (0.975, 5, 2.5706),
        (0.99375, 5, 3.8100),
        (0.975, 30, 2.0423),
        (0.9995, 100, 3.3905),
        (0.975, 1000, 1.962339),
        (0.975, 9999, 1.960201),
    ],
)
def test_it_is_that_of_the_tables(share: float, freedom: float, value: float) -> None:
    assert student_t(share, freedom) == pytest.approx(value, rel=2e-4)


def test_of_many_values_it_is_the_normal_distribution() -> None:
    assert student_t(0.99, math.nan) == student_t(0.99, math.inf) == NormalDist().inv_cdf(0.99)
    assert student_t(0.99, 199.999) == pytest.approx(student_t(0.99, 200), rel=2e-5)
