"""A mean with its interval."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from saft.report import summarize
from saft.report.arm_summary import MetricSummary, ScoreSummary
from saft.report.over_seeds import OverSeeds
from saft.report.with_interval import Estimate, experts_estimate, merged_estimate, task_estimate
from saft.tasks.estimate import share
from tests.report.made_up import METHODS, made_up, mapping, typed


def of_arm(results, arm="sam"):
    summary = summarize(results)
    return summary.rows["limited", arm].by_metric[summary.metrics[0]]


def test_the_interval_is_over_seeds_where_there_are_several():
    several = OverSeeds({0: 0.79, 1: 0.81})
    assert Estimate(several, error=0.1).ends == several.interval
    of_six = Estimate(OverSeeds({0: 0.8}), error=0.01, freedom=5)
    assert of_six.ends == pytest.approx((0.7743, 0.8257), abs=1e-4)
    assert Estimate(OverSeeds({0: 0.8}), error=0.01).ends == pytest.approx((0.7804, 0.8196), abs=1e-4)
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


def test_the_freedom_of_a_mean_is_that_of_the_examples_of_its_tasks():
    scores = of_arm(made_up(seeds=(0,)))
    merged = merged_estimate(scores, ["ties"])
    assert 3 * 1999 < merged.freedom < 4 * 1999  # four tasks of 2000, of about the same error
    assert task_estimate([scores.experts], "tweets").freedom == 1999
    results = mapping(arms=("adamw", "sam"), seeds=(0,))
    for of_task in results["cells"][-1]["experts"].values():
        of_task["test"]["examples"] = 6
    few = experts_estimate(of_arm(typed(results)))
    assert few.freedom < 20
    (of_two,) = (c for c in summarize(typed(results)).comparisons if c.arm == "sam")
    assert of_two.experts.freedom < 100  # the other arm is tested on 2000


@pytest.mark.parametrize(("tasks", "least"), [(1, 0.85), (3, 0.9)])
@pytest.mark.parametrize("examples", [6, 20, 100])
@pytest.mark.parametrize("right", [0.1, 0.5, 0.8])
def test_accuracies_lie_in_it_about_as_often_as_it_says(tasks, least, examples, right):
    """Of two standard errors it was 78 % of one task of 6 examples, and 88 % of three."""
    draw = torch.Generator().manual_seed(0)
    names, sure, draws = [f"task_{i}" for i in range(tasks)], 0, 400
    for _ in range(draws):
        scores = {name: share(torch.rand(examples, generator=draw) < right) for name in names}
        summary = ScoreSummary(
            OverSeeds({0: fmean(score.value for score in scores.values())}),
            {name: OverSeeds({0: score.value}) for name, score in scores.items()},
            {name: score.standard_error for name, score in scores.items()},
            {name: score.examples for name, score in scores.items()},
        )
        low, high = experts_estimate(MetricSummary(summary, {})).ends
        sure += low <= right <= high
    assert sure / draws >= least  # and 0.01 is the error of this share
