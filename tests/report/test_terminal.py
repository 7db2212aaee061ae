"""The table that ends a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from saft.report import table
from tests.report.made_up import made_up


def printed(results, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(table(results))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": (0,)},
        {"regimes": ("limited", "plenty")},
        {"test": False},
        {"arms": ("adamw", "adamw_passes", "sam")},
        {"arms": ("sam",)},
        {"methods": ("average",)},
        {"methods": ("average", "task_arithmetic", "ties", "pcb", "dare", "della", "breadcrumbs")},
        {"methods": ()},
    ],
    ids=str,
)
def test_fits_and_is_plain(width, options):
    text = printed(made_up(**options), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "…" not in text  # nothing is cut off
    for method in options.get("methods", ("average", "ties", "pcb")):
        assert method in text.replace("task arithmetic", "task_arithmetic")


def test_shared_coefficient_comes_first_and_the_verdict_last():
    text = printed(made_up())
    places = [
        text.index(t)
        for t in ("One shared coefficient", "One coefficient per task", "Interference", "Verdict")
    ]
    assert places == sorted(places)


def test_figures_in_percent_with_their_spread():
    results = made_up(seeds=(0, 1, 2), arms=("adamw", "sam"))
    assert "±" in printed(results)
    assert "±" not in printed(made_up(seeds=(0,), arms=("adamw", "sam"))).split("Mean ±")[0]


def test_validation_figures_are_called_that():
    assert "validation accuracy in percent" in printed(made_up(test=False))
    assert "test accuracy in percent" in printed(made_up())


def test_what_is_missing_is_said():
    results = made_up()
    results["cells"] = results["cells"][:-1]
    assert "Not complete: limited, asam: no result for seed 2" in printed(results)


def test_the_highest_of_a_column_is_bold():
    file = io.StringIO()
    Console(file=file, width=120, force_terminal=True).print(table(made_up(arms=("adamw", "sam"), gain=0.05)))
    lines = file.getvalue().split("One coefficient per task")[0].splitlines()
    (sam,) = [line for line in lines if line.startswith("sam")]
    (adamw,) = [line for line in lines if line.startswith("adamw")]
    assert sam.count("\x1b[1m") == 4
    assert adamw.count("\x1b[1m") == 0
