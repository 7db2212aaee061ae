"""Which arms are compared, what they have in common, and the error of their difference."""

from __future__ import annotations

import math

import pytest

from saft.report import summarize, table
from saft.report.comparison import relation
from saft.report.html import page
from saft.report.latex_tables import escaped, latex_tables
from saft.report.results import ArmFacts
from saft.report.verdict import interval
from tests.report.made_up import TASKS, made_up, mapping, typed
from tests.report.test_terminal import printed

TWO_ARMS = ("adamw", "sam")
ADAMW, LONGER = ArmFacts("", None, None, 4, 4), ArmFacts("", None, None, 8, 8)
SAM, MOMENTUM = ArmFacts("", "sam", 0.05, 4, 8), ArmFacts("", "momentum_sam", 0.05, 4, 4)
LOOKSAM = ArmFacts("", "looksam", 0.05, 100, 120)
CHOSEN_SAM = ArmFacts("", "sam", 0.05, 8, 16, [2, 4, 8])
CHOSEN = ArmFacts("", None, None, 8, 8, [2, 4, 8])


@pytest.mark.parametrize(
    ("arm", "baseline", "words"),
    [
        (SAM, ADAMW, "the same number of steps, 2 times the passes"),
        (SAM, LONGER, "the same number of forward and backward passes"),
        (MOMENTUM, ADAMW, "the same number of steps and of passes"),
        (MOMENTUM, LONGER, "0.5 times the passes"),
        (LOOKSAM, ArmFacts("", None, None, 120, 120), "the same number of forward and backward passes"),
        (LOOKSAM, ArmFacts("", None, None, 200, 200), "0.6 times the passes"),
        (CHOSEN_SAM, ADAMW, "steps of the other arm chosen on validation data"),
        (CHOSEN_SAM, CHOSEN, "steps of both chosen on validation data"),
        (SAM, CHOSEN, "steps of the plain arm chosen on validation data"),
    ],
)
def test_what_two_arms_have_in_common_is_said_of_the_two(arm, baseline, words):
    assert relation(arm, baseline) == words


def test_the_measured_time_stands_beside():
    results = mapping(seeds=(0,), arms=TWO_ARMS)
    (comparison,) = summarize(typed(results)).comparisons
    assert comparison.relation == "the same number of steps, 2 times the passes, 1.9 times the seconds"
    results["cells"][0]["seconds"] = None
    (comparison,) = summarize(typed(results)).comparisons
    assert comparison.relation == "the same number of steps, 2 times the passes"


def test_every_arm_with_ascent_meets_every_arm_without():
    pairs = [(c.arm, c.baseline) for c in summarize(made_up()).comparisons]
    plain = ("adamw", "adamw_passes", "adamw_selected")
    assert pairs == [(arm, baseline) for arm in ("sam", "asam") for baseline in plain]


def test_a_paired_error_takes_the_place_of_two_independent_ones():
    results = mapping(seeds=(0, 1), arms=TWO_ARMS)
    methods = list(results["cells"][0]["merges"])
    error = {"train_size": results["cells"][0]["train_size"], "arm": "sam", "baseline": "adamw"}
    error |= {"metric": "accuracy", "methods": methods[::-1], "standard_error": 0.002, "freedom": 10.0}
    results["paired_errors"] = [error, error | {"methods": methods[:1], "standard_error": 0.004}]
    (comparison,) = summarize(typed(results)).comparisons
    mean = comparison.merged.values.mean
    assert comparison.merged.standard_error == 0.002
    assert comparison.merged.over_examples == pytest.approx((mean - 0.004456, mean + 0.004456), abs=1e-6)
    assert comparison.errors == {methods[0]: 0.004}
    assert not comparison.experts.is_paired, "of experts no example's part is kept"
    (finding,) = summarize(typed(results)).verdict[comparison.train_size]
    assert f"; over the examples {100 * mean - 0.4456:+.1f} to" in finding.figures[0].replace("−", "-")


def test_results_of_earlier_versions_have_many_examples():
    results = mapping(seeds=(0,), arms=TWO_ARMS)
    error = {"train_size": results["cells"][0]["train_size"], "arm": "sam", "baseline": "adamw"}
    error |= {"metric": "accuracy", "methods": list(results["cells"][0]["merges"]), "standard_error": 0.01}
    for freedom in ({}, {"freedom": None}):  # JSON has no infinity
        results["paired_errors"] = [error | freedom]
        (comparison,) = summarize(typed(results)).comparisons
        low, high = comparison.merged.over_examples
        assert high - low == pytest.approx(2 * 0.0196, abs=1e-5)


def test_one_seed_is_ahead_only_where_its_few_examples_say_so():
    results = mapping(seeds=(0,), arms=TWO_ARMS, gain=0.03, noise=0.0)
    error = {"train_size": results["cells"][0]["train_size"], "arm": "sam", "baseline": "adamw"}
    error |= {"metric": "accuracy", "methods": list(results["cells"][0]["merges"]), "standard_error": 0.0125}
    for freedom, outcome in ((100.0, "ahead, one seed"), (5.0, "within the noise")):
        results["paired_errors"] = [error | {"freedom": freedom}]
        (comparison,) = summarize(typed(results)).comparisons
        assert comparison.merged.outcome == outcome
        assert comparison.merged.is_open == (outcome == "within the noise")


def test_the_error_is_that_of_the_scores():
    (comparison,) = summarize(made_up(seeds=(0,), arms=TWO_ARMS, gain=0.0, noise=0.0)).comparisons
    results = mapping(seeds=(0,), arms=TWO_ARMS, gain=0.0, noise=0.0)
    merges = results["cells"][0]["merges"].values()
    by_task = [
        sum(m["shared"]["test"][t]["standard_error"] for m in merges) / len(list(merges)) for t in TASKS
    ]
    of_one_arm = math.sqrt(sum(error**2 for error in by_task)) / len(TASKS)
    assert comparison.merged.standard_error == pytest.approx(math.sqrt(2) * of_one_arm)
    own = [e["test"]["standard_error"] for e in results["cells"][0]["experts"].values()]
    assert comparison.experts.standard_error == pytest.approx(math.sqrt(2) * math.hypot(*own) / len(TASKS))


def test_an_unknown_error_of_one_task_leaves_the_mean_without():
    results = mapping(seeds=(0,), arms=TWO_ARMS)
    for merge in results["cells"][0]["merges"].values():
        merge["shared"]["test"]["tweets"]["standard_error"] = None
    (comparison,) = summarize(typed(results)).comparisons
    assert comparison.merged.standard_error is None
    assert comparison.merged.outcome == "unknown"
    assert comparison.experts.standard_error is not None


def test_tasks_of_another_metric_are_compared_on_their_own():
    summary = summarize(made_up(arms=TWO_ARMS, tasks=(*TASKS, "stories"), gain=0.05, noise=0.001))
    accuracy, perplexity = summary.comparisons
    assert accuracy.merged.values.mean == pytest.approx(0.05, abs=0.01)
    assert perplexity.merged.values.mean == pytest.approx(-0.5, abs=0.1)
    assert (accuracy.merged.outcome, perplexity.merged.outcome) == ("better", "better")


def test_arms_without_a_common_seed_are_not_compared():
    results = mapping(seeds=(0, 1), arms=TWO_ARMS)
    results["cells"] = [c for c in results["cells"] if (c["arm"], c["seed"]) in {("adamw", 0), ("sam", 1)}]
    assert summarize(typed(results)).comparisons == []


def test_the_spread_is_of_paired_differences():
    # Seeds differ by 10 points, but by the same in both arms: the gain of 1 point is certain.
    results = mapping(arms=TWO_ARMS, gain=0.01, noise=0.0)
    for cell in results["cells"]:
        for merge in cell["merges"].values():
            for score in merge["shared"]["test"].values():
                score["value"] -= cell["seed"] / 10
    (comparison,) = summarize(typed(results)).comparisons
    assert comparison.merged.outcome == "better"
    assert comparison.merged.values.mean == pytest.approx(0.01)
    assert list(comparison.by_method) == comparison.methods


def test_the_interval_of_one_seed_is_over_the_examples():
    results = made_up(arms=("adamw", "sam"), seeds=(0,), methods=("ties",), gain=0.05)
    (of_one,) = summarize(results).comparisons
    assert of_one.merged.ends == of_one.merged.over_examples is not None
    written = interval(of_one.merged.ends, of_one.metric)
    told = "intervals are over the examples"
    assert all(text in printed(table(results)) for text in (written, told))
    assert f"<td>{written}</td>" in page(results)
    assert escaped(written) in latex_tables(results, summarize(results))["gains.tex"]
    several = made_up(arms=("adamw", "sam"), seeds=(0, 1), methods=("ties",))
    (of_two,) = summarize(several).comparisons
    assert of_two.merged.ends == of_two.merged.values.interval
    assert told not in printed(table(several))
