from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.report.html import page
from saft.report.weighted import weighted_sentences
from tests.report.made_up import made_up, mapping, typed, with_held_out


def weighted(seed: int, gain: list[float] | None) -> dict[str, object]:
    scores = {
        task: {"value": 0.5 + 0.1 * seed, "standard_error": None, "examples": 10}
        for task in ("reuters", "tweets")
    }
    weights = {"reuters": [0.25 + seed], "tweets": [0.5, 1.0]}
    return {"weights": weights, "validation": scores, "test": scores, "gain": gain}


def results(*gains: list[float] | None):
    plain = mapping(seeds=tuple(range(len(gains))), arms=("adamw",), tasks=("reuters", "tweets"))
    for cell, gain in zip(plain["cells"], gains, strict=True):
        cell["merges"]["task_arithmetic"]["weighted"] = weighted(cell["seed"], gain)
    return typed(plain)


def test_of_one_seed_weights_scores_and_gain() -> None:
    (sentence,) = weighted_sentences(results([0.02] * 10), "limited")
    assert sentence == (
        "adamw, reuters 0.25, tweets 0.5 → 1: test reuters 50.0, tweets 50.0; better than one shared coefficient: "
        "+2.0 (95 % interval 2.0 to 2.0) in % of the experts' scores"
    )


def test_of_several_seeds_the_groups_are_averaged() -> None:
    (sentence,) = weighted_sentences(results([0.02, 0.0], [0.0, 0.02]), "limited")
    assert "seed 0: reuters 0.25, tweets 0.5 → 1; seed 1: reuters 1.25" in sentence
    assert "test reuters 55.0" in sentence
    assert "better than one shared coefficient: +1.0 (95 % interval 1.0 to 1.0)" in sentence


@pytest.mark.parametrize(
    ("gain", "words"),
    [([0.02, -0.02], "within the noise of one"), ([-0.02, -0.02], "worse than one"), (None, "tweets 50.0")],
)
def test_what_the_gain_says(gain: list[float] | None, words: str) -> None:
    (sentence,) = weighted_sentences(results(gain), "limited")
    assert words in sentence
    assert (gain is None) == sentence.endswith("tweets 50.0")


def test_the_page_has_the_sentences_and_without_weights_no_heading() -> None:
    assert "better than one shared coefficient" in page(results([0.02] * 10))
    assert weighted_sentences(made_up(), "limited") == []
    assert "A weight for each task" not in page(made_up())


def test_scores_of_other_tasks_are_told() -> None:
    plain = mapping(seeds=(0,), arms=("adamw",), tasks=("reuters", "tweets", "reviews"))
    plain["cells"][0]["merges"]["task_arithmetic"]["weighted"] = weighted(0, None)
    with pytest.raises(Exception, match="task_arithmetic: its scores must be of reuters, reviews, tweets"):
        typed(plain)


def test_what_it_keeps_of_a_task_that_is_held_out_is_told() -> None:
    plain = with_held_out(mapping(seeds=(0,), arms=("adamw",), tasks=("reuters", "tweets")))
    score = {"value": 0.55, "standard_error": None, "examples": 10}
    own = weighted(0, None) | {"held_out": {"general": {"validation": score, "test": score}}}
    plain["cells"][0]["merges"]["task_arithmetic"]["weighted"] = own
    (sentence,) = weighted_sentences(typed(plain), "limited")
    assert sentence.endswith("test reuters 50.0, tweets 50.0, held out general 55.0")
    own["held_out"]["strange"] = own["held_out"]["general"]
    with pytest.raises(UserError, match=r"protocol\.held_out has no strange"):
        typed(plain)
