"""Intervals of differences on the same examples: right about as often as they say, also where these are few."""

from __future__ import annotations

import math

import pytest
import torch

from saft.interference.paired_interval import error_of_mean, freedom_of_mean, half_width, paired_error


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


def test_several_models_count_each_example_once_and_two_more_as_far_apart_as_they_agree() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4, 30, generator=draw, dtype=torch.float64)
    assert paired_error(one, other) == pytest.approx(float((one - other).mean(0).std()) / math.sqrt(30))
    ones, others = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    far = math.sqrt((2 * 0.5**2) / (2 * 0.5))  # each example differs in one model of two
    two_more = torch.tensor([0.5, 0.5, far, -far], dtype=torch.float64)
    assert paired_error(ones, others) == pytest.approx(float(two_more.std(correction=0)) / 2)
    assert paired_error(ones[:1].expand(3, 2), others[:1].expand(3, 2)) == pytest.approx(
        paired_error(ones[0], others[0])
    )


def test_the_freedom_of_a_mean_is_between_the_least_and_the_sum() -> None:
    assert freedom_of_mean([0.1, 0.1, 0.1], [6, 6, 6]) == 15
    assert freedom_of_mean([0.1, 1e-6], [6, 100]) == pytest.approx(5)
    assert freedom_of_mean([0.0], [6]) == math.inf
    assert error_of_mean([0.3, 0.4]) == pytest.approx(0.25)


def holds(kinds: torch.Tensor, better: float, worse: float) -> bool:
    """Return whether the truth lies in the interval of what was drawn, [tasks, ..., examples] in [0, 1)."""
    ones, others = (kinds < better).double(), ((kinds >= better) & (kinds < better + worse)).double()
    errors = [paired_error(*pair) for pair in zip(ones, others, strict=True)]
    apart = float((ones - others).mean()) - (better - worse)
    return abs(apart) <= half_width(errors, [kinds.shape[-1]] * len(kinds), 0.95)


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("examples", [6, 20, 100])
@pytest.mark.parametrize(("better", "worse"), [(0.02, 0.02), (0.1, 0.0), (0.3, 0.1)])
def test_means_over_models_lie_in_it_as_often_as_it_says(
    alike: float, examples: int, better: float, worse: float
) -> None:
    """Of 9 models, as of 3 seeds and 3 merge methods, and 3 tasks; `alike` is how often one does as another."""
    draw = torch.Generator().manual_seed(0)
    sure, draws = 0, 200
    for _ in range(draws):
        own, common = torch.rand(3, 9, examples, generator=draw), torch.rand(3, 1, examples, generator=draw)
        kinds = torch.where(torch.rand(3, 9, examples, generator=draw) < alike, common, own)
        sure += holds(kinds, better, worse)
    assert sure / draws >= 0.9  # and 0.015 is the error of this share


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
        sure += holds(kinds, better, worse)
    assert sure / draws >= 0.9  # and 0.01 is the error of this share


def test_three_examples_of_a_correlation_are_not_sure_of_everything() -> None:
    """All of 1 and all of -1 differ by 2 on each: the error was 0, as if no number of examples were too few."""
    best = torch.ones(3)
    error = paired_error(best, -best)
    assert error == pytest.approx(torch.tensor([2.0, 2, 2, 2, -2]).std(correction=0).item() / 5**0.5)
    assert paired_error(best, 1 - best) == pytest.approx(error / 2)  # of right and wrong it was so before
    assert paired_error(-best, -best) == 0.0
    losses = torch.tensor([0.5, 1.5, 1.0])
    assert paired_error(losses, losses * 1.1) == pytest.approx(0.1 * losses.std().item() / 3**0.5)


@pytest.mark.parametrize("examples", [6, 20, 100])
def test_losses_lie_in_it_as_often_as_it_says(examples: int) -> None:
    draw = torch.Generator().manual_seed(1)
    sure, draws = 0, 1000
    for _ in range(draws):
        apart = torch.randn(2, examples, generator=draw, dtype=torch.float64)
        errors = [paired_error(of_task, 0 * of_task) for of_task in apart]
        sure += abs(float(apart.mean())) <= half_width(errors, [examples] * 2, 0.99)
    assert 0.98 <= sure / draws <= 1
