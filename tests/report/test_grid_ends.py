"""Which coefficients were chosen at the end of what was tried."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from saft.report.grid_ends import ADD_A_GRID, grid_ends
from saft.report.html import page
from saft.report.side_by_side import side_by_side
from saft.report.terminal import table
from tests.report.made_up import COEFFICIENTS, mapping, typed


def results(**chosen: tuple[float, ...]):
    """Return results of two seeds; arm -> the coefficient that TIES chose for each."""
    made = mapping(seeds=(0, 1), arms=tuple(chosen), methods=("average", "ties"))
    for cell in made["cells"]:
        merge = cell["merges"]["average"]
        merge["curve"] = merge["curve"][2:3]  # no choice
        merge["per_task"]["coefficients"] = dict.fromkeys(merge["per_task"]["coefficients"], 0.5)
        merge = cell["merges"]["ties"]
        merge["shared"]["coefficient"] = chosen[cell["arm"]][cell["seed"]]
    return typed(made)


def printed(made) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(made))
    return capture.get()


def test_a_coefficient_in_the_middle_is_no_end():
    assert grid_ends(results(sam=(0.5, 0.3)), "limited") == []


def test_each_end_is_told_with_the_arms_and_seeds_that_chose_it():
    made = results(adamw=(COEFFICIENTS[-1], 0.5), sam=(COEFFICIENTS[-1], COEFFICIENTS[0]))
    assert grid_ends(made, "limited") == [
        "ties: the largest coefficient of its grid, 1, was chosen in adamw (1 of 2 seeds), sam (1 of 2 seeds)",
        "ties: the smallest coefficient of its grid, 0.1, was chosen in sam (1 of 2 seeds)",
    ]
    assert grid_ends(made, "other") == []


def test_what_is_drawn_between_two_ends_has_these_and_not_the_least_that_was_drawn():
    made = results(adamw=(COEFFICIENTS[0], COEFFICIENTS[-1]))
    drawn = {
        "selection": {"search": "tpe"},
        "merges": {"ties": {"scaling": [0.0, 1.001]}, "average": {"scaling": [1.0]}},
    }
    made = dataclasses.replace(made, config={**made.config, **drawn})
    assert grid_ends(made, "limited") == [
        "ties: a coefficient near the largest of its grid, 1.001, was chosen in adamw (1 of 2 seeds)"
    ]


def test_page_and_terminal_tell_it_with_what_can_be_done():
    made = results(sam=(COEFFICIENTS[-1], COEFFICIENTS[-1]))
    (sentence,) = grid_ends(made, "limited")
    assert all(text in page(made) and text in printed(made) for text in (sentence, ADD_A_GRID))
    inside = results(sam=(0.5, 0.5))
    assert ADD_A_GRID not in page(inside) + printed(inside)


def test_of_runs_side_by_side_each_has_its_own_grid():
    made = results(sam=(COEFFICIENTS[-1], COEFFICIENTS[-1]))
    drawn = {
        "selection": {"search": "tpe"},
        "merges": {"ties": {"scaling": [0.0, 3.0]}, "average": {"scaling": [1.0]}},
    }
    both = side_by_side({"a": made, "b": dataclasses.replace(made, config=drawn)})
    assert grid_ends(both, "limited") == [
        "ties: the largest coefficient of its grid, 1, was chosen in sam (a) (2 of 2 seeds)"
    ]
