"""What is concluded, and what is not."""

from __future__ import annotations

import pytest

from saft.report import summarize
from tests.report.made_up import TASKS, made_up, mapping, moved, typed


def verdict(**options):
    return said(summarize(made_up(**options)))


def said(summary, size="limited"):
    return " ".join(" ".join((f.conclusion, *f.figures)) for f in summary.verdict[size])


TWO_ARMS = ("adamw", "sam")


def test_a_clear_gain_is_called_one():
    text = verdict(gain=0.05, noise=0.001)
    assert "sam: it helps: the merged model is better than that of every plain arm" in text
    assert "(steps of the plain arm chosen on validation data" in text
    assert "does not help" not in text


def test_a_clear_loss_is_called_one():
    assert "sam: it does not help: the merged model is worse than" in verdict(gain=-0.05, noise=0.001)


def test_a_difference_within_the_noise_is_not_called_a_gain():
    text = verdict(gain=0.001, noise=0.05)
    assert "these runs do not show that it helps" in text
    assert "it helps: the" not in text


def test_experts_that_lose_beyond_their_error_are_told_of():
    text = verdict(gain=0.0, quality=-0.045, noise=0.001, arms=TWO_ARMS)
    assert "these runs do not show that it helps" in text
    assert "Its experts are worse before merging, beyond the noise, than those of adamw (−4." in text
    assert "Its experts" not in verdict(gain=0.05, quality=0.0, noise=0.01, arms=TWO_ARMS)
    assert "Its experts are better before merging" in verdict(gain=0.05, quality=0.05, arms=TWO_ARMS)


def test_one_seed_tells_of_the_experts_by_the_error_of_the_evaluation():
    text = verdict(seeds=(0,), gain=0.0, quality=-0.045, noise=0.0, arms=TWO_ARMS)
    assert "nothing can be concluded" in text
    assert (
        "Its experts are worse before merging, beyond what the examples leave open (one seed), than "
        "those of adamw (−4.5 points)." in text
    )
    assert "experts −4.5 (behind, one seed)" in text


def test_a_gain_smaller_than_the_error_of_the_evaluation_says_so():
    text = verdict(gain=0.005, noise=0.0, arms=TWO_ARMS)
    assert "it helps on these examples: the merged model is better than that of the one plain arm" in text
    assert "; yet over the examples −0.8 to +1.8)" in text
    assert "yet over" not in verdict(gain=0.05, noise=0.0, arms=TWO_ARMS)


def test_an_arm_with_more_than_fine_tuning_is_compared_with_the_plain_ones():
    results = mapping(arms=TWO_ARMS, gain=0.03, noise=0.0)
    no_ascent = results["arms"]["sam"] | {"perturbation": None, "rho": None}
    for extra, expected in (
        ("penalty", "sam: it helps: the merged model is better"),
        ("averaging", "sam: it helps: the merged model is better"),
        ("optimizer", "sam: it helps: the merged model is better"),
        ("choices", "Nothing to compare"),
    ):
        results["arms"] = results["arms"] | {"sam": no_ascent | {"extras": {extra: "drift"}}}
        assert expected in said(summarize(typed(results)))


def test_against_several_arms_each_is_named():
    results = mapping(arms=("adamw", "adamw_passes", "sam"), gain=0.0, noise=0.0)
    moved(results, "adamw", -0.05)
    moved(results, "adamw_passes", 0.05)
    text = said(summarize(typed(results)))
    assert "sam: the merged model is better than adamw; worse than adamw_passes." in text


def test_one_seed_concludes_nothing_and_gives_the_error_of_the_evaluation():
    summary = summarize(made_up(seeds=(0,), arms=TWO_ARMS, gain=0.03))
    (comparison,) = summary.comparisons
    text = said(summary)
    assert "no spread can be given and nothing can be concluded" in text
    low, high = (100 * end for end in comparison.merged.over_examples)
    assert f"(95 % interval over the examples {low:+.1f} to {high:+.1f})" in text
    assert "it helps" not in text


def test_one_seed_and_unknown_errors():
    results = mapping(seeds=(0,), arms=TWO_ARMS)
    for cell in results["cells"]:
        for merge in cell["merges"].values():
            for score in merge["shared"]["test"].values():
                score["standard_error"] = None
    assert "the error of the evaluation is not known" in said(summarize(typed(results)))


def test_each_metric_has_its_own_findings_in_its_own_unit():
    text = verdict(arms=TWO_ARMS, tasks=(*TASKS, "stories"), gain=0.05, noise=0.001)
    assert "sam, accuracy: it helps" in text
    assert "sam, perplexity: it helps" in text
    assert "): −0.50, 11." in text or "): −0.49, 11." in text
    assert "(3 seeds, 95 % interval −" in text


@pytest.mark.parametrize("arms", [("adamw", "adamw_passes"), ("sam", "asam")])
def test_without_a_pair_there_is_nothing_to_compare(arms):
    assert "Nothing to compare" in verdict(arms=arms)


def test_validation_scores_are_said_to_be_optimistic():
    assert "The test split was not read: these are validation scores" in verdict(test=False)


def test_each_train_size_has_its_own_verdict():
    summary = summarize(made_up(sizes=("limited", "plenty")))
    assert list(summary.verdict) == ["limited", "plenty"]
    assert len(summary.verdict["plenty"]) == 2  # sam and asam


def test_one_common_seed_with_one_arm_says_nothing_of_the_others():
    results = mapping(arms=("adamw", "adamw_passes", "sam"), gain=0.05, noise=0.001)
    results["cells"] = [c for c in results["cells"] if c["arm"] != "adamw" or c["seed"] == 0]
    text = said(summarize(typed(results)))
    assert "better than that of the one plain arm. With adamw it has one seed in common" in text
    assert "on this seed" not in text
