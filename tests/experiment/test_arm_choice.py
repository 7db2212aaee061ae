"""What a trial's merges are worth, and which is chosen, by figures that are given."""

from __future__ import annotations

import math

import pytest

from saft.experiment.arm_choice import best_trial, merged_worth
from saft.tasks import Metric

ACCURACY, F1 = Metric("accuracy", "%"), Metric("F1", "%")
LOSS = Metric("loss", "nats", higher_is_better=False)
STRONG = {"ties": {"a": 0.6, "b": 0.4}}


def test_of_one_metric_the_scores_count_as_they_are_whatever_the_experts() -> None:
    metrics = {"a": ACCURACY, "b": ACCURACY}
    for best in ({"a": 0.9, "b": 0.9}, {"a": 0.1, "b": 0.4}):
        assert merged_worth(STRONG, best, metrics) == pytest.approx(0.5)


def test_it_is_the_mean_over_merge_methods() -> None:
    both = STRONG | {"average": {"a": 0.2, "b": 0.2}}
    assert merged_worth(both, {}, {"a": ACCURACY, "b": ACCURACY}) == pytest.approx(0.35)


def test_of_several_metrics_the_scores_are_taken_over_the_best_experts() -> None:
    worth = merged_worth({"ties": {"a": 0.6, "b": 4.0}}, {"a": 0.8, "b": 3.0}, {"a": F1, "b": LOSS})
    assert worth == pytest.approx((0.6 / 0.8 + 3.0 / 4.0) / 2)


@pytest.mark.parametrize(
    ("worths", "higher", "chosen"),
    [
        ({"a": {0: 0.5, 1: 0.5}, "b": {0: 0.9, 1: 0.2}}, True, "b"),
        ({"a": {0: 0.5, 1: 0.5}, "b": {0: 0.9, 1: 0.2}}, False, "a"),
        ({"a": {0: 0.5}, "b": {0: 0.5}}, True, "a"),
        ({"a": {0: 0.1, 1: 0.1}, "b": {0: 0.9, 1: math.nan}}, True, "a"),
        ({"a": {0: math.nan}}, True, None),
    ],
)
def test_the_best_mean_over_seeds_is_chosen_and_of_equals_the_first(
    worths: dict[str, dict[int, float]], higher: bool, chosen: str | None
) -> None:
    assert best_trial(worths, higher) == chosen
