"""The table that ends a run."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from saft.report import table
from tests.report.made_up import METHODS, TASKS, made_up, mapping, typed

MIXED = (*TASKS, "stories")


def printed(renderable, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": (0,)},
        {"sizes": ("limited", "plenty")},
        {"test": False},
        {"arms": ("adamw", "adamw_passes", "sam")},
        {"arms": ("sam",)},
        {"methods": ("average",)},
        {"methods": ("average", "task_arithmetic", "ties", "pcb", "dare", "della", "breadcrumbs")},
        {"methods": ()},
        {"tasks": MIXED},
        {"tasks": ("stories",)},
    ],
    ids=str,
)
def test_fits_and_is_plain(width, options):
    text = printed(table(made_up(**options)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "…" not in text  # nothing is cut off
    for method in options.get("methods", METHODS):
        assert all(word in text for word in method.split("_"))


def test_shared_coefficient_comes_first_and_the_verdict_last():
    text = printed(table(made_up()))
    headings = (
        "One shared coefficient",
        "One coefficient per task",
        "Cost of one expert",
        "Measured",
        "Verdict",
    )
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)


def test_figures_have_their_spread():
    assert "±" in printed(table(made_up(arms=("adamw", "sam"))))
    assert "±" not in printed(table(made_up(seeds=(0,), arms=("adamw", "sam")))).split("Mean ±")[0]


def test_scores_are_said_to_be_what_they_are():
    assert "limited: 400 training examples a task, validation accuracy in percent" in printed(
        table(made_up(test=False))
    )
    text = printed(table(made_up(tasks=MIXED)), 120)
    assert "test accuracy in percent of reuters, newsgroups, tweets, reviews" in text
    assert "test perplexity (lower is better) of stories" in text
    assert "each mean is over the tasks of one metric" in text


def test_figures_of_a_perplexity_are_no_percentages():
    text = printed(table(made_up(tasks=("stories",), seeds=(0,), arms=("adamw", "sam"), noise=0.0)))
    assert re.search(r"adamw\s+12\.00\s+12\.6[23]", text)  # 20 - 10 * 0.8, and with 0.74 - 0.01 / 4
    assert "Merged perplexity, mean over methods: differences, paired by seed" in " ".join(text.split())
    assert "The pretrained model: perplexity (lower is better) 15.00" in text


def test_what_is_missing_is_said():
    results = mapping()
    results["cells"] = results["cells"][:-1]
    assert "Not complete: limited, asam: no result for seed 2" in printed(table(typed(results)))


def test_the_cost_of_the_arms_is_what_was_measured():
    text = printed(table(made_up(arms=("adamw_selected", "sam"))))
    assert re.search(r"adamw_selected\s+50, 100, 200\s+200\s+12\.5", text)
    assert re.search(r"sam\s+100\s+200\s+24\.0", text)


def test_any_quantity_is_shown_by_its_own_name_unit_and_meaning():
    results = mapping(arms=("adamw", "sam"))
    for cell in results["cells"]:
        cell["measured"]["hessian_trace"] = 12.5
    results["quantities"] = results["quantities"] | {
        "hessian_trace": {"meaning": "sum of the curvatures", "unit": "nats", "decimals": 2}
    }
    text = printed(table(typed(results)))
    assert "hessian" in text
    assert "12.50" in text
    assert "hessian trace: sum of the curvatures" in text


@pytest.mark.parametrize(
    ("metric", "bold"), [({}, "sam"), ({"higher_is_better": False}, "adamw")], ids=["higher", "lower"]
)
def test_the_best_of_a_column_is_bold(metric, bold):
    results = mapping(arms=("adamw", "sam"), gain=0.05, tasks=("tweets",))
    results["protocol"]["tasks"]["tweets"]["metric"] |= metric
    file = io.StringIO()
    Console(file=file, width=120, force_terminal=True).print(table(typed(results)))
    lines = file.getvalue().split("One coefficient per task")[0].splitlines()
    for arm in ("sam", "adamw"):
        (line,) = [line for line in lines if line.startswith(arm)]
        assert line.count("\x1b[1m") == (4 if arm == bold else 0)
