"""Intervals of differences on the same examples: right about as often as they say, also where these are few."""

from __future__ import annotations

import math

import pytest
import torch

from saft.interference.paired_interval import half_width, paired_error


def test_an_error_that_is_not_known_stops_nothing() -> None:
    assert math.isnan(half_width([math.nan], [6], 0.95))


def test_the_error_is_that_of_a_mean_difference() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 30, generator=draw, dtype=torch.float64)
    assert paired_error(one, other) == pytest.approx(float((one - other).std()) / math.sqrt(30))
    assert paired_error(one, one) == 0  # nothing is known of how far such values may lie apart
    assert math.isnan(paired_error(one[:1], other[:1]))


def test_where_none_or_all_differ_the_error_is_not_none() -> None:
    right = torch.ones(6, dtype=torch.float64)
    assert paired_error(right, right) == pytest.approx(math.sqrt(2 / 8) / math.sqrt(8))
    assert paired_error(right, 0 * right) == pytest.approx(math.sqrt(8 / 8 - (6 / 8) ** 2) / math.sqrt(8))
    with_rounding = right - 1e-13  # as the jackknife of an accuracy gives it
    assert paired_error(with_rounding, right) == pytest.approx(paired_error(right, right))


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("examples", [6, 20, 100])
@pytest.mark.parametrize(("better", "worse"), [(0.02, 0.02), (0.1, 0.0), (0.3, 0.1), (0.5, 0.3)])
def test_accuracies_lie_in_it_as_often_as_it_says(
    tasks: int, examples: int, better: float, worse: float
) -> None:
    """With z and no floor it was 47 % of 6 examples a tenth of which differ, and 83 % where most of them do."""
    draw = torch.Generator().manual_seed(0)
    sure, draws = 0, 400
    for _ in range(draws):
        kinds = torch.rand(tasks, examples, generator=draw, dtype=torch.float64)
        ones, others = (kinds < better).double(), ((kinds >= better) & (kinds < better + worse)).double()
        errors = [paired_error(*pair) for pair in zip(ones, others, strict=True)]
        apart = float((ones - others).mean()) - (better - worse)
        sure += abs(apart) <= half_width(errors, [examples] * tasks, 0.95)
    assert sure / draws >= 0.9  # and 0.01 is the error of this share


@pytest.mark.parametrize("examples", [6, 20, 100])
def test_losses_lie_in_it_as_often_as_it_says(examples: int) -> None:
    draw = torch.Generator().manual_seed(1)
    sure, draws = 0, 1000
    for _ in range(draws):
        apart = torch.randn(2, examples, generator=draw, dtype=torch.float64)
        errors = [paired_error(of_task, 0 * of_task) for of_task in apart]
        sure += abs(float(apart.mean())) <= half_width(errors, [examples] * 2, 0.99)
    assert 0.98 <= sure / draws <= 1
