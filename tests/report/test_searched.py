"""What was searched for a merge."""

from __future__ import annotations

import pytest

from saft.report.searched import how_searched, searches
from tests.report.made_up import COEFFICIENTS, mapping, typed


def of(results, arm, method):
    return next(s for s in searches(typed(results), "limited") if (s.arm, s.method) == (arm, method))


def test_older_results_tell_the_coefficients_of_their_curve():
    searched = of(mapping(seeds=(0, 1)), "sam", "ties")
    assert searched.evaluations == 2 * len(COEFFICIENTS)
    assert searched.tried == "λ 0.1, 0.3, 0.5, 0.7, 1"
    assert (searched.chosen, searched.worth) == ("λ 0.5", None)


def test_parameters_and_seeds_that_differ_are_told():
    results = mapping(seeds=(0, 1), arms=("sam",), methods=("ties",))
    for cell, density in zip(results["cells"], (0.1, 0.2), strict=True):
        merge = cell["merges"]["ties"]
        merge["parameters"] = {"density": density}
        merge["search"] = [
            {"values": {"density": d, "scaling": c}, "worth": 0.9 + d * (c == 0.5)}
            for d in (0.1, 0.2)
            for c in COEFFICIENTS
        ]
    searched = of(results, "sam", "ties")
    assert searched.evaluations == 20
    assert searched.tried == "density 0.1, 0.2; λ 0.1, 0.3, 0.5, 0.7, 1"
    assert searched.chosen == "density 0.1, λ 0.5; density 0.2, λ 0.5"
    assert searched.worth == pytest.approx(0.9 + 0.15)


def test_many_values_are_told_by_their_ends():
    results = mapping(seeds=(0,), arms=("sam",), methods=("ties",))
    merge = results["cells"][0]["merges"]["ties"]
    merge["search"] = [{"values": {"scaling": 0.5 + i / 10}, "worth": None} for i in range(20)]
    assert of(results, "sam", "ties").tried == "λ 0.5 to 2.4, 20 values"


def test_what_had_no_choice_was_not_searched():
    results = mapping(seeds=(0,), arms=("sam",), methods=("average",))
    merge = results["cells"][0]["merges"]["average"]
    merge["curve"] = merge["curve"][2:3]
    merge["per_task"]["coefficients"] = dict.fromkeys(merge["per_task"]["coefficients"], 0.5)
    assert searches(typed(results), "limited") == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"selection": {"search": "tpe"}}, "Optuna’s TPE drew the candidates"),
        ({"selection": "damaged"}, "Every candidate of a grid was evaluated"),
        ({"folders": {"a": {}, "b": {"selection": {"search": "tpe"}}}}, "grid was evaluated, or those that"),
    ],
)
def test_where_the_candidates_came_from(config, told):
    assert told in how_searched(typed(mapping(seeds=(0,), arms=("sam",)) | {"config": config}))
