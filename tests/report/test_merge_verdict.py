"""Who hurts whom, below the matrix on the page and in the terminal: the words of `saft measure`."""

from __future__ import annotations

import dataclasses

from saft.interference.culprit import HOW_RIGHT, verdict
from saft.interference.quantity import MEASURES, OWN_METRIC
from saft.report.html import page
from saft.report.measured import without_errors
from saft.report.merge_verdict import merge_verdict
from saft.report.results import from_json, to_json
from saft.report.side_by_side import side_by_side
from saft.report.terminal import table
from tests.report.made_up import mapping, typed
from tests.report.test_terminal import printed

TASKS = ("reuters", "tweets", "reviews")


def measured(seeds=(0,)):
    """Results whose arms have been asked who hurts whom: reuters does, in the arm `sam`."""
    results = mapping(seeds=seeds, arms=("adamw", "sam"), tasks=TASKS)
    made = MEASURES.get("leave_one_out")().quantities
    results["quantities"] = results["quantities"] | {
        name: {
            "meaning": made[name].meaning,
            "per": "pair",
            "axes": made[name].axes,
            "unit": "%",
            "scale": 100,
            "error_of": made[name].error_of,
        }
        for name in ("harm", "harm_error")
    }
    for cell in results["cells"]:
        harm = 0.1 if cell["arm"] == "sam" else 0.0
        each = {j: {t: harm * (j == "reuters") for t in TASKS if t != j} for j in TASKS}
        errors = {j: dict.fromkeys(row, 0.01) for j, row in each.items()}
        cell["measured"] |= {"harm": each, "harm_error": errors}
        known = typed(results).quantities
        cell["verdict"] = verdict({"harm": each, "harm_error": errors}, known, dict.fromkeys(TASKS, 400))
    return typed(results)


def test_the_words_are_those_of_measure_and_each_names_its_arm():
    adamw, sam = merge_verdict(measured(), "limited")
    assert adamw.startswith(
        "adamw: no model is seen to hurt the others: even without reuters, they gain nothing"
    )
    assert sam.startswith(
        "sam: reuters hurts the merge most: without it the others gain 10.0 % on average (95 %"
    )
    assert merge_verdict(measured(seeds=(0, 1)), "limited")[-1].startswith(
        "sam, seed 1: reuters hurts the merge most"
    )


def test_of_several_seeds_it_says_first_what_holds_in_how_many():
    results = measured(seeds=(0, 1, 2))
    adamw, *_, sam, first, _, _ = merge_verdict(results, "limited")
    assert adamw == "adamw, in 3 seeds: nobody is seen to hurt in any of them."
    assert sam == "sam, in 3 seeds: reuters hurts the merge in 3 of 3."
    assert first.startswith("sam, seed 0: reuters hurts the merge most")
    losses = {"tweets": {"reuters": 0.1}, "reuters": {"tweets": 0.0}}
    for cell in results.cells[-2:]:
        cell.measured["pair_harm"] = losses
        cell.measured["pair_harm_error"] = {t: dict.fromkeys(row, 0.01) for t, row in losses.items()}
    results.cells[-1].measured.pop("harm")
    assert merge_verdict(results, "limited")[4] == (
        "sam, in 3 seeds: reuters hurts the merge in 2 of 3; tweets loses by reuters in 2 of 3."
    )


def test_it_is_found_where_runs_measured_in_two_ways():
    one, other = measured(seeds=(0, 1)), measured(seeds=(0, 1))
    other.quantities["harm"] = dataclasses.replace(other.quantities["harm"], meaning="another one")
    both = side_by_side({"a": one, "b": other})
    assert "sam (b), in 2 seeds: reuters hurts the merge in 2 of 2." in merge_verdict(both, "limited")
    other.quantities["harm"] = dataclasses.replace(other.quantities["harm"], unit=OWN_METRIC)
    said = merge_verdict(side_by_side({"a": one, "b": other}), "limited")
    assert (
        "sam (a), in 2 seeds: reuters hurts the merge in 2 of 2." in said
    )  # what one run lacks, another has
    assert "sam (b), in 2 seeds: nobody is seen to hurt in any of them." in said
    assert "<li>sam (b), in 2 seeds" in page(both)
    assert {"harm (a)", "harm_error (a)", "harm (b)", "harm_error (b)"} <= set(both.quantities)
    assert not any(name.startswith("harm_error") for name in without_errors(both.quantities))


def test_a_name_that_holds_brackets_is_whole():
    results = measured(seeds=(0, 1))
    for held in (results.quantities, *(cell.measured for cell in results.cells)):
        held["harm (l1)"] = held.pop("harm")
    assert "sam, in 2 seeds: nobody is seen to hurt in any of them." in merge_verdict(results, "limited")


def test_it_stands_below_the_matrix_and_in_the_terminal_and_in_the_file():
    results = measured()
    html, text = page(results), " ".join(printed(table(results)).split())
    matrix = html.index("harm, %, pair by pair")
    assert matrix < html.index("<li>sam: reuters hurts the merge most") < html.index(HOW_RIGHT[:40])
    assert "sam: reuters hurts the merge most: without it" in text
    assert " ".join(HOW_RIGHT.split()) in text
    assert from_json(to_json(results)).cells[1].verdict == results.cells[1].verdict


def test_where_no_merge_was_measured_nothing_is_said():
    results = typed(mapping(seeds=(0,), arms=("adamw", "sam"), tasks=TASKS))
    assert merge_verdict(results, "limited") == []
    assert HOW_RIGHT[:40] not in page(results)
    assert "Who hurts whom" not in printed(table(results))
