from __future__ import annotations

import csv
import io

import pytest

from saft.errors import UserError
from saft.report import summarize
from saft.report.csv_tables import csv_tables
from saft.report.html import page
from saft.report.latex_tables import latex_tables
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


def test_the_tables_have_it_beside_the_merge_with_one_coefficient() -> None:
    of_two = results([0.02] * 10, [0.02] * 10)
    summary = summarize(of_two)
    rows = list(csv.DictReader(io.StringIO(csv_tables(of_two, summary)["scores.csv"])))
    found = {row["task"]: row for row in rows if row["coefficient"] == "weights"}
    assert list(found) == ["reuters", "tweets", "mean over tasks"]
    assert found["tweets"]["model"] == "task_arithmetic"
    assert float(found["tweets"]["mean"]) == pytest.approx(0.55)
    latex = latex_tables(of_two, summary)
    assert "task arithmetic & task arithmetic, searched weights & " in latex["scores.tex"]
    assert r"adamw & task arithmetic, searched weights & 55.0 $\pm$ 7.1 & " in latex["tasks.tex"]


def test_a_score_of_it_that_is_not_finite_is_told() -> None:
    plain = mapping(seeds=(0,), arms=("adamw",), tasks=("reuters", "tweets"))
    own = plain["cells"][0]["merges"]["task_arithmetic"]["weighted"] = weighted(0, None)
    own["test"]["tweets"] = own["test"]["tweets"] | {"value": None}
    missing = summarize(typed(plain)).missing
    assert missing == [
        "limited, adamw, seed 0: not finite: score of task_arithmetic with searched weights on tweets"
    ]


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


def test_the_tables_have_what_it_keeps_of_a_task_that_is_held_out() -> None:
    plain = with_held_out(mapping(seeds=(0,), arms=("adamw",), tasks=("reuters", "tweets")))
    score = {"value": 0.55, "standard_error": None, "examples": 10}
    own = weighted(0, None) | {"held_out": {"general": {"validation": score, "test": score}}}
    plain["cells"][0]["merges"]["task_arithmetic"]["weighted"] = own
    of_all = typed(plain)
    summary = summarize(of_all)
    rows = csv.DictReader(io.StringIO(csv_tables(of_all, summary)["held_out.csv"]))
    found = [row for row in rows if (row["model"], row["coefficient"]) == ("task_arithmetic", "weights")]
    assert [(row["task"], float(row["mean"])) for row in found] == [
        ("general", pytest.approx(0.55)),
        ("mean over tasks held out", pytest.approx(0.55)),
    ]
    latex = latex_tables(of_all, summary)["held_out.tex"]
    assert r"adamw & task arithmetic, searched weights & 55.0 & 55.0 & $-$5.0 \\" in latex
    score["value"] = None
    missing = summarize(typed(plain)).missing
    assert missing == [
        "limited, adamw, seed 0: not finite: score of task_arithmetic with searched weights on general"
    ]
