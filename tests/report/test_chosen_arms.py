"""Arms with `choices` in the report: what was tried and chosen, in words, tables and comparisons."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from saft.errors import UserError
from saft.report.chosen_arms import chosen_arms, tried
from saft.report.csv_tables import csv_tables
from saft.report.html import page
from saft.report.latex_tables import latex_tables
from saft.report.results import from_json, to_json
from saft.report.side_by_side import side_by_side
from saft.report.summary import summarize
from saft.report.terminal import table
from tests.report.made_up import ACCURACY, ARMS, mapping, typed

SLOW, FAST = "adamw--learning_rate=0.0001--steps=157", "adamw--learning_rate=0.0002--steps=134"


def trial(rate, steps, worth):
    values = {"learning_rate": rate, "steps": steps}
    return {
        "values": values,
        "facts": ARMS["adamw"] | {"steps": steps, "passes": steps, "extras": {"choices": f"steps {steps}"}},
        "worth": dict(zip(("0", "1", "2"), worth, strict=False)),
    }


def searched(sizes=("limited",), chosen=(FAST,), **changes):
    """Return results of an arm with two trials, of which one was chosen at each train size."""
    results = mapping(sizes=sizes, arms=("adamw", "sam"))
    trials = {
        SLOW: trial(1e-4, 157, (0.80, 0.82, 0.81)),
        FAST: trial(2e-4, 134, (0.82, 0.84, 0.83)),
    }
    results["arm_searches"] = [
        {
            "train_size": size,
            "arm": "adamw",
            "trials": trials,
            "chosen": name,
            "combinations": 2,
            "metric": ACCURACY,
        }
        | changes
        for size, name in zip(sizes, chosen, strict=True)
    ]
    results["arms"]["adamw"] = trials[chosen[0]]["facts"]
    return results


def test_a_sentence_tells_what_was_chosen_of_how_many_and_at_what_cost():
    assert chosen_arms(typed(searched()), "limited") == [
        "adamw: learning rate 0.0002, steps 134: best of 2 trials on merged validation accuracy"
        " (81.0 to 83.0), 291 passes an expert in all"
    ]
    assert chosen_arms(typed(searched()), "other") == []


def test_a_draw_a_divergence_and_several_metrics_are_told():
    results = searched(combinations=6, metric=None)
    results["arm_searches"][0]["trials"]["third"] = trial(1.0, 9, (0.5, None, 0.5))
    (sentence,) = chosen_arms(typed(results), "limited")
    assert "best of 3 trials on merged validation scores, % of the best experts’ (81.0 to 83.0)" in sentence
    assert "drawn from 6 combinations, 1 diverged, 300 passes" in sentence
    assert tried(typed(results), "limited")[-1].worth == "diverged"


def test_every_trial_has_a_row_with_its_seeds():
    slow, fast = tried(typed(searched()), "limited")
    assert (slow.values, slow.passes, slow.chosen) == ("learning rate 0.0001, steps 157", 157, False)
    assert (fast.worth, fast.by_seed, fast.chosen) == ("83.0 ± 1.0", "82.0, 84.0, 83.0", True)


def test_the_page_shows_them_where_something_was_tried_only():
    text = page(typed(searched()))
    for words in (
        "How the arms were chosen",
        "best of 2 trials",
        "learning rate 0.0001, steps 157",
        "82.0, 84.0",
    ):
        assert words in text
    assert "How the arms were chosen" not in page(typed(mapping(arms=("adamw", "sam"))))


def test_each_train_size_has_the_facts_of_its_own_trial():
    results = typed(searched(("limited", "full"), (FAST, SLOW)))
    assert [results.facts(size, "adamw").steps for size in ("limited", "full", "other")] == [134, 157, 134]
    relations = {c.train_size: c.relation for c in summarize(results).comparisons}
    assert relations["limited"].startswith("1.49 times the passes")
    assert relations["full"].startswith("1.27 times the passes")
    costs = csv.DictReader(io.StringIO(csv_tables(results, summarize(results))["costs.csv"]))
    assert [row["passes"] for row in costs if row["arm"] == "adamw"] == ["134.0", "157.0"]
    assert "& 134 &" in (tex := latex_tables(results, summarize(results))["costs.tex"])
    assert "& 157 &" in tex
    text = page(results)
    assert "adamw, limited</th>" in text
    assert "adamw, full</th>" in text


def test_the_terminal_has_a_line_for_each_arm():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(typed(searched())))
    told = console.export_text()
    assert "Chosen: adamw: learning rate 0.0002, steps 134: best of 2 trials" in told


def test_the_table_of_trials_has_a_number_a_cell():
    results = searched()
    results["arm_searches"][0]["trials"][SLOW]["worth"]["1"] = None
    tables = csv_tables(typed(results), summarize(typed(results)))
    rows = list(csv.DictReader(io.StringIO(tables["trials.csv"])))
    assert len(rows) == 6
    assert rows[1] == {
        "train_size": "limited",
        "arm": "adamw",
        "learning_rate": "0.0001",
        "steps": "157",
        "passes": "157.0",
        "seed": "1",
        "merged_validation": "",
        "chosen": "False",
    }
    assert "trials.csv" not in csv_tables(typed(mapping()), summarize(typed(mapping())))


def test_results_are_read_as_they_were_written():
    results = typed(searched())
    assert from_json(to_json(results)) == results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "adamw--steps=1"}, "limited, adamw: trials has no 'adamw--steps=1'"),
        ({"arm": "adam"}, "limited, adam: arms has no 'adam'"),
        ({"train_size": "few"}, "few, adamw: protocol.train_sizes has no 'few'"),
    ],
)
def test_a_contradiction_is_told(change, message):
    results = searched()
    results["arm_searches"][0] |= change
    with pytest.raises(UserError, match=message):
        typed(results)


def test_runs_side_by_side_keep_their_searches_apart():
    both = side_by_side({"a": typed(searched()), "b": typed(searched(chosen=(SLOW,)))})
    assert both.facts("limited", "adamw (a)").steps == 134
    assert both.facts("limited", "adamw (b)").steps == 157
    assert [sentence.split(":")[0] for sentence in chosen_arms(both, "limited")] == ["adamw (a)", "adamw (b)"]
