"""A mean with its interval."""

from __future__ import annotations

import pytest

from saft.report import summarize
from saft.report.over_seeds import OverSeeds
from saft.report.with_interval import Estimate, experts_estimate, merged_estimate, task_estimate
from tests.report.made_up import METHODS, made_up, mapping, typed


def of_arm(results, arm="sam"):
    summary = summarize(results)
    return summary.rows["limited", arm].by_metric[summary.metrics[0]]


def test_the_interval_is_over_seeds_where_there_are_several():
    several = OverSeeds({0: 0.79, 1: 0.81})
    assert Estimate(several, error=0.1).ends == several.interval
    assert Estimate(OverSeeds({0: 0.8}), error=0.01).ends == pytest.approx((0.78, 0.82))
    assert Estimate(OverSeeds({0: 0.8}), error=None).ends is None


def test_the_mean_over_methods_is_of_the_seeds_that_have_all():
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1))
    del results["cells"][-1]["merges"]["ties"]
    scores = of_arm(typed(results))
    assert list(merged_estimate(scores, list(METHODS)).values.by_seed) == [0]
    assert merged_estimate(scores, []) is None
    assert experts_estimate(scores).values.n == 2


def test_a_task_that_one_model_lacks_has_no_mean():
    results = mapping(arms=("adamw", "sam"), seeds=(0,))
    results["cells"][-1]["merges"]["ties"]["shared"]["test"]["tweets"]["value"] = None
    merges = [merge.shared for merge in of_arm(typed(results)).merges.values()]
    assert task_estimate(merges, "tweets") is None
    assert task_estimate(merges, "reviews").mean == pytest.approx(
        sum(merge.tasks["reviews"].mean for merge in merges) / len(merges)
    )
    assert task_estimate([s.shared for s in of_arm(made_up(seeds=(0,))).merges.values()], "tweets").error > 0
