"""What experts are, against what merging leaves of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from saft.report import summarize
from saft.report.drawing import colours
from saft.report.expert_figures import lost_figure, rank_correlation, retained_figure, training_figure
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, made_up, mapping, typed

METRIC = Metric(**ACCURACY)
SMALL = {"arms": ("adamw", "sam"), "seeds": (0, 1), "methods": ("average", "ties")}


def texts(svg):
    return [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def drawn(results, draw, *more):
    summary = summarize(results)
    rows = summary.of_size("limited")
    return draw(rows, METRIC, summary.tasks_of[METRIC], *more, colours(results.arms), "name")


@pytest.mark.slow
def test_a_panel_for_each_method_and_one_for_each_quantity_of_an_expert():
    results = made_up(**SMALL)
    words = texts(drawn(results, retained_figure))
    assert {"average", "ties", "single-task models, %", "merged model, %", "adamw", "sam"} <= set(words)
    words = texts(drawn(results, lost_figure, results.quantities))
    assert {"norm", "lost in the merge, points"} <= set(words)
    assert len([word for word in words if word.startswith("rank correlation ")]) == 1
    assert "sharpness" not in words  # which is the same for all tasks of an arm, so that there is no relation


@pytest.mark.slow
def test_a_line_of_losses_for_each_arm():
    results = mapping(**SMALL)
    assert training_figure(typed(results), "limited", colours(typed(results).arms), "name") == ""
    for cell in results["cells"]:
        for expert in cell["experts"].values():
            expert["losses"] = [[10, 1.5], [20, None], [30, 0.5]]
    words = texts(training_figure(typed(results), "limited", colours(typed(results).arms), "name"))
    assert words.count("step") == 4
    assert "training loss" in words
    for cell in results["cells"]:
        for expert in cell["experts"].values():
            expert["losses"] = [[2, 1.5]]
    words = texts(training_figure(typed(results), "limited", colours(typed(results).arms), "name"))
    assert "2" in words
    assert not any(word.startswith(("1.9", "2.0")) for word in words)  # half a step is none


def test_a_rank_correlation_is_that_of_the_ranks():
    rising = [(1.0, 1.0), (2.0, 10.0), (3.0, 100.0)]
    assert rank_correlation(rising) == pytest.approx(1.0)
    assert rank_correlation([(x, -y) for x, y in rising]) == pytest.approx(-1.0)
    assert rank_correlation([(1.0, 2.0), (1.0, 3.0)]) == 0.0
    ties = [(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (3.0, 4.0)]  # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert rank_correlation(ties) == pytest.approx(4.5 / (4.5 * 5.0) ** 0.5)


def test_what_differs_by_round_off_has_no_rank_correlation():
    results = mapping(**SMALL)
    kept = {"meaning": "share of entries", "per": "task", "unit": "%", "scale": 100.0, "decimals": 1}
    results["quantities"] = {"kept": kept}
    for cell in results["cells"]:
        cell["measured"] = {"kept": {task: 0.2 + i * 1e-9 for i, task in enumerate(cell["experts"])}}
    results = typed(results)
    assert drawn(results, lost_figure, results.quantities) == ""
