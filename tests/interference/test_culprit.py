"""Sentences that name who hurts whom."""

from __future__ import annotations

import dataclasses
import math
import random

from saft.interference.culprit import verdict
from saft.interference.hurting import hurting_pairs
from saft.interference.quantity import OWN_LOSS, OWN_METRIC, Quantity

PERCENT = Quantity("example", "%", per="pair", scale=100, decimals=1)
WHAT = {"harm": PERCENT, "pair_harm": PERCENT}


def harm(of_a):
    return {"a": {"b": of_a, "c": of_a}, "b": {"a": -0.1, "c": 0.0}, "c": {"a": 0.0, "b": 0.0}}


def errors(matrix, error):
    return {row: dict.fromkeys(of_row, error) for row, of_row in matrix.items()}


def test_the_culprit_is_whom_the_others_gain_most_without():
    (sentence,) = verdict({"harm": harm(0.06), "harm_error": errors(harm(0.0), 0.01)}, WHAT)
    assert sentence == (  # 2.394 standard errors, of the worst of three, each of a mean of two
        "a hurts the merge most: without it the others gain 6.0 % on average "
        "(95 % interval 4.3 to 7.7; b +6.0, c +6.0)."
    )


def test_of_two_models_the_one_that_is_left_is_named():
    of_two = {"a": {"b": 0.06}, "b": {"a": -0.02}}
    (sentence,) = verdict({"harm": of_two, "harm_error": errors(of_two, 0.01)}, WHAT)
    assert sentence == "a hurts the merge most: without it b gains 6.0 % (95 % interval 3.8 to 8.2)."
    (sentence,) = verdict({"harm": of_two, "harm_error": errors(of_two, 0.1)}, WHAT)
    assert "without a, b gains 6.0 % (95 % interval −16.4 to 28.4), which so few examples" in sentence


def test_whoever_else_hurts_is_named_too():
    of_both = {"a": {"b": 0.06, "c": 0.06}, "b": {"a": 0.1, "c": 0.09}, "c": {"a": 0.0, "b": 0.01}}
    sentences = verdict({"harm": of_both, "harm_error": errors(of_both, 0.01)}, WHAT)
    assert [sentence[:20] for sentence in sentences] == ["b hurts the merge mo", "a hurts it too: with"]


def test_a_model_that_diverged_is_named_and_stops_no_other_sentence():
    lost = {"a": {"b": 0.06, "c": math.nan}, "b": {"a": math.nan, "c": math.nan}, "c": {"a": 0.0, "b": 0.0}}
    figures = {"harm": lost, "harm_error": errors(lost, 0.01), "loss": {"a": 0.1, "b": 0.2, "c": math.inf}}
    broken, culprit = verdict(figures, WHAT)
    assert broken == ("c has no finite loss or score on its own examples: leave it out, or train it again.")
    assert culprit == "a hurts the merge most: without it b gains 6.0 % (95 % interval 3.6 to 8.4)."
    assert verdict({"expert_score": {"a": math.nan}}, {})[0].startswith("a has no finite loss or score")


def test_gains_that_cancel_but_for_rounding_are_none():
    cancelled = {"a": {"b": 0.1 + 0.2, "c": -0.3}, "b": {"a": -1.0, "c": 0.0}, "c": {"a": -1.0, "b": 0.0}}
    (sentence,) = verdict({"harm": cancelled}, WHAT)
    assert "even without a, they gain nothing, 0.0 % on average" in sentence


def test_what_so_few_examples_cannot_tell_is_not_claimed():
    (sentence,) = verdict({"harm": harm(0.06), "harm_error": errors(harm(0.0), 0.05)}, WHAT)
    assert "no model is seen to hurt" in sentence
    assert "95 % interval −2.5 to 14.5; b" in sentence
    assert sentence.endswith("which so few examples do not tell from chance (about 2 times as many would).")


def test_of_a_harm_that_is_hardly_one_no_number_of_examples_is_advised():
    (sentence,) = verdict({"harm": harm(0.001), "harm_error": errors(harm(0.0), 0.05)}, WHAT)
    assert sentence.endswith("which so few examples do not tell from chance.")


def test_without_a_known_error_nobody_is_named():
    (sentence,) = verdict({"harm": harm(0.06)}, WHAT)
    assert "no model is seen to hurt" in sentence
    assert "(its error is not known; b +6.0, c +6.0)" in sentence


def test_the_worst_of_many_is_not_taken_for_a_harm():
    """Of 200 sets of 12 models that hurt nobody, about one in twenty is blamed, and not one in three."""
    draw = random.Random(0)
    names = "abcdefghijkl"
    blamed = 0
    for _ in range(200):
        noise = {j: {t: draw.gauss(0, 0.02) for t in names if t != j} for j in names}
        (sentence,) = verdict({"harm": noise, "harm_error": errors(noise, 0.02)}, WHAT)
        blamed += "hurts the merge most" in sentence
    assert blamed <= 12


def test_few_examples_blame_nobody_whom_many_would():
    of_two = {"a": {"b": 0.27}, "b": {"a": 0.0}}
    sure = errors(of_two, 0.1)
    (sentence,) = verdict({"harm": of_two, "harm_error": sure}, WHAT, {"a": 600, "b": 600})
    assert "a hurts the merge most: without it b gains 27.0 % (95 % interval 4.5 to 49.5)" in sentence
    (sentence,) = verdict({"harm": of_two, "harm_error": sure}, WHAT, {"a": 600, "b": 6})
    assert "no model is seen to hurt the others" in sentence
    assert "95 % interval −4.6 to 58.6" in sentence  # 3.163 errors, by Student's t of 5
    of_pair = {"pair_harm": of_two, "pair_harm_error": sure}
    assert hurting_pairs(of_pair, {"a": 6, "b": 600}) == []
    assert hurting_pairs(of_pair, {"a": 600, "b": 6}) == [("a", "b")]


def test_where_nobody_gains_nobody_is_blamed():
    (sentence,) = verdict({"harm": {"a": {"b": -0.02}, "b": {"a": -0.01}}}, WHAT)
    assert "no model is seen to hurt the others: even without b" in sentence


def test_pairs_are_told_worst_first_and_by_who_loses():
    losses = {"a": {"b": 0.2, "c": 0.01}, "b": {"a": 0.1, "c": 0.3}, "c": {"a": 0.0, "b": -0.1}}
    scores = {"base_score": dict.fromkeys("abc", 0.4), "expert_score": dict.fromkeys("abc", 0.9)}
    sure = errors(losses, 0.01)
    assert verdict({"pair_harm": losses, "pair_harm_error": sure, **scores}, WHAT) == [
        "c will hurt b (by its vector b loses 30.0 %, 95 % interval 27.4 to 32.6).",
        "these two will hurt each other: a and b (by the other's vector a loses 20.0 %, 95 % interval 17.4 to "
        "22.6, b loses 10.0 %, 95 % interval 7.4 to 12.6).",
    ]


def test_where_fine_tuning_gained_nothing_no_share_of_it_excuses_a_harm():
    """An expert that is worse than the base had gained as much as it lost, and a loss less than a tenth of it."""
    losses = {"a": {"b": 0.03}, "b": {"a": 0.0}}
    figures = {"pair_harm": losses, "pair_harm_error": errors(losses, 0.001)}
    worse = {"base_score": {"a": 0.9}, "expert_score": {"a": 0.5}, "merged_score": {"a": 0.6}}
    better = {"base_score": {"a": 0.5}, "expert_score": {"a": 0.9}, "merged_score": {"a": 0.8}}
    assert hurting_pairs(figures | worse | {"room": {"a": -0.1}}) == [("a", "b")]
    assert hurting_pairs(figures | better | {"room": {"a": 0.1}}) == []  # 3 of 40 points
    lower_is_better = {"base_score": {"a": 0.9}, "expert_score": {"a": 0.5}, "merged_score": {"a": 0.6}}
    assert hurting_pairs(figures | lower_is_better | {"room": {"a": 0.1}}) == []
    assert hurting_pairs(figures | better) == []


def test_a_loss_within_its_error_is_no_hurt():
    losses = {"a": {"b": 0.2}, "b": {"a": 0.0}}
    (sentence,) = verdict({"pair_harm": losses, "pair_harm_error": errors(losses, 0.1)}, WHAT)
    assert "no pair is seen to hurt" in sentence
    assert sentence.endswith("more than chance makes the worst of 2.")


def test_without_a_merge_nobody_is_said_to_be_hurt():
    shifts = {"a": {"b": 0.5, "c": 0.1}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": 0.0, "b": 0.0}}
    quantity = Quantity("rise of a loss", "nats", per="pair")
    (sentence,) = verdict({"shift_by_other": shifts}, {"shift_by_other": quantity})
    assert sentence.startswith("b disturbs a most: rise of a loss: 0.500 nats. Nothing was merged")
    own = dataclasses.replace(quantity, unit=OWN_LOSS)  # such as nats and a mean square
    assert list(verdict({"shift_by_other": shifts}, {"shift_by_other": own})) == []
    cosines = {"a": {"a": 1.0, "b": -0.2}, "b": {"a": -0.2, "b": 1.0}}
    (sentence,) = verdict({"cosine": cosines}, {"cosine": Quantity("c", per="pair", decimals=2)})
    assert sentence.startswith(
        "a and b are most opposed in their weights (cosine −0.20). Weights do not tell"
    )


def test_a_merge_that_breaks_a_task_is_told_and_not_left_out():
    """A perplexity that overflows in the merge is the worst harm there is, and has no error."""
    lost = {"a": {"b": math.inf, "c": 0.0}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": 0.0, "b": math.inf}}
    figures = {"harm": lost, "harm_error": errors(lost, 0.01)}
    broken, others = verdict(figures, WHAT)
    assert broken == "b has no finite score in the merge of all, or in one that leaves a model out."
    assert others.startswith("no model is seen to hurt the others")
    (diverged, _) = verdict(figures | {"expert_score": {"b": math.inf}}, WHAT)
    assert diverged.startswith("b has no finite loss or score on its own examples")
    pairs = {"a": {"b": math.nan, "c": 0.0}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": 0.0, "b": 0.0}}
    broken, others = verdict({"pair_harm": pairs, "pair_harm_error": errors(pairs, 0.01)}, WHAT)
    assert broken == "a has no finite score by its own vector scaled, or merged with 'b'."
    assert others.startswith("no pair is seen to hurt: as a pair")
    every = {"a": {"b": math.nan}, "b": {"a": math.nan}}
    assert len(verdict({"pair_harm": every, "pair_harm_error": every}, WHAT)) == 2


def test_examples_that_do_not_differ_are_no_interval_of_nothing():
    """Nine examples of an F1 that a merge leaves as they are had "95 % interval 0.0 to 0.0"."""
    of_two = {"a": {"b": 0.0}, "b": {"a": -0.1}}
    (sentence,) = verdict({"harm": of_two, "harm_error": {"a": {"b": 0.0}, "b": {"a": 0.1}}}, WHAT)
    assert (
        sentence == "no model is seen to hurt the others: even without a, b gains 0.0 % (no example differs)."
    )


def test_changes_of_metrics_of_several_units_are_not_averaged():
    own = dataclasses.replace(PERCENT, unit=OWN_METRIC, scale=1.0)
    three = {"a": {"b": 0.1, "c": 90.0}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": 0.0, "b": 0.0}}
    sure = errors(three, 0.01)
    (sentence,) = verdict({"harm": three, "harm_error": sure}, {"harm": own})
    assert (
        sentence == "who hurts the merge is not told: metrics of several units have no mean over the tasks."
    )
    of_two = {"a": {"b": 0.6}, "b": {"a": 0.0}}
    (sentence,) = verdict({"harm": of_two, "harm_error": errors(of_two, 0.01)}, {"harm": own})
    assert sentence.startswith("a hurts the merge most: without it b gains 0.6 in its own metric (95 %")


def test_pairs_of_a_single_example_are_not_compared_with_chance():
    losses = {"a": {"b": 1.0}, "b": {"a": 0.0}}
    (sentence,) = verdict({"pair_harm": losses, "pair_harm_error": errors(losses, math.nan)}, WHAT)
    assert sentence.endswith("how sure it is what one loses is not known, as of a single example.")


def test_nobody_disturbs_who_lowers_the_loss_and_opposed_weights_are_no_overlap():
    quantity = {"shift_by_other": Quantity("rise of a loss", "nats", per="pair")}
    (sentence,) = verdict({"shift_by_other": {"a": {"b": -0.1}, "b": {"a": -0.2}}}, quantity)
    assert sentence.startswith(
        "no model disturbs another; the nearest to it is b for a: rise of a loss: −0.1"
    )
    (sentence,) = verdict({"shift_by_other": {"a": {"b": math.nan}, "b": {"a": 0.2}}}, quantity)
    assert sentence.startswith("a disturbs b most: rise of a loss: 0.200 nats.")
    cosines = {"cosine": Quantity("c", per="pair", decimals=2)}
    (sentence,) = verdict({"cosine": {"a": {"b": 0.0}, "b": {"a": 0.0}}}, cosines)
    assert sentence.startswith("a and b do not overlap in their weights (cosine 0.00).")


def test_one_model_has_no_verdict():
    assert verdict({"cosine": {"a": {"a": 1.0}}, "norm": {"a": 2.0}}, {}) == []
