"""What is concluded, and what is not."""

from __future__ import annotations

import math

import pytest

from saft.report import summarize
from tests.report.made_up import METHODS, TASKS, made_up


def verdict(**options):
    return said(summarize(made_up(**options)))


def said(summary, regime="limited"):
    return " ".join(" ".join((f.conclusion, *f.figures)) for f in summary.verdict[regime])


TWO_ARMS = ("adamw", "sam")


def test_a_clear_gain_is_called_one():
    text = verdict(gain=0.05, noise=0.001)
    assert "sam: it helps: the merged model is better than that of every arm without ascent" in text
    assert "steps chosen on validation data): +5" in text
    assert "does not help" not in text


def test_a_clear_loss_is_called_one():
    assert "sam: it does not help: the merged model is worse than" in verdict(gain=-0.05, noise=0.001)


def test_a_difference_within_the_noise_is_not_called_a_gain():
    text = verdict(gain=0.001, noise=0.05)
    assert "these runs do not show that it helps" in text
    assert "it helps: the" not in text


def test_a_gain_smaller_than_the_error_of_the_evaluation_says_so():
    text = verdict(gain=0.005, noise=0.0, arms=TWO_ARMS)
    assert "it helps on these examples: the merged model is better than that of the one arm" in text
    assert "yet less than two binomial standard errors of the evaluation, 0.7 each" in text
    assert "yet less" not in verdict(gain=0.05, noise=0.0, arms=TWO_ARMS)


def test_against_several_arms_each_is_named():
    results = made_up(arms=("adamw", "adamw_passes", "sam"), gain=0.0, noise=0.0)
    for cell in results["cells"]:
        shift = {"adamw": -0.05, "adamw_passes": 0.05, "sam": 0.0}[cell["arm"]]
        for merge in cell["merges"].values():
            merge["shared"]["test"] = {t: a + shift for t, a in merge["shared"]["test"].items()}
    text = said(summarize(results))
    assert "sam: the merged model is better than adamw; worse than adamw_passes." in text


def test_one_seed_concludes_nothing_and_gives_the_binomial_error():
    summary = summarize(made_up(seeds=(0,), arms=TWO_ARMS, gain=0.03))
    (comparison,) = summary.comparisons
    p = {
        task: sum(m.shared.tasks[task].mean for m in summary.rows["limited", "sam"].merges.values())
        / len(METHODS)
        for task in TASKS
    }
    of_one_arm = math.sqrt(sum(p[t] * (1 - p[t]) / 2000 for t in TASKS)) / len(TASKS)
    assert comparison.standard_error == pytest.approx(math.sqrt(2) * of_one_arm, rel=0.05)
    text = said(summary)
    assert "no spread can be given and nothing can be concluded" in text
    assert (
        f"two binomial standard errors of the evaluation, {100 * comparison.standard_error:.1f} each" in text
    )
    assert "it helps" not in text


def test_one_seed_and_unknown_sizes():
    results = made_up(seeds=(0,), arms=TWO_ARMS)
    for sizes in results["protocol"]["tasks"].values():
        sizes["test"] = None
    assert "no error can be given" in said(summarize(results))


def test_the_spread_is_of_paired_differences():
    # Seeds differ by 10 points, but by the same in both arms: the gain of 1 point is certain.
    results = made_up(arms=TWO_ARMS, gain=0.01, noise=0.0)
    for cell in results["cells"]:
        for merge in cell["merges"].values():
            merge["shared"]["test"] = {t: a + cell["seed"] / 10 for t, a in merge["shared"]["test"].items()}
    (comparison,) = summarize(results).comparisons
    assert comparison.outcome == "better"
    assert comparison.difference.mean == pytest.approx(0.01)
    assert set(comparison.by_method) == set(METHODS)


@pytest.mark.parametrize("arms", [("adamw", "adamw_passes"), ("sam", "asam")])
def test_without_a_pair_there_is_nothing_to_compare(arms):
    assert "Nothing to compare" in verdict(arms=arms)


def test_arms_without_a_common_seed_are_not_compared():
    results = made_up(seeds=(0, 1), arms=TWO_ARMS)
    results["cells"] = [c for c in results["cells"] if (c["arm"], c["seed"]) in {("adamw", 0), ("sam", 1)}]
    assert summarize(results).comparisons == []


def test_each_regime_has_its_own_verdict():
    summary = summarize(made_up(regimes=("limited", "plenty")))
    assert list(summary.verdict) == ["limited", "plenty"]
    assert len(summary.verdict["plenty"]) == 2  # sam and asam
