"""The figures of tasks that are held out."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from saft.report import summarize
from saft.report.drawing import colours
from saft.report.held_out_figures import held_out_curves, trade_off_figure
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, mapping, typed, with_held_out

pytestmark = pytest.mark.slow

METRIC = Metric(**ACCURACY)
SMALL = {"arms": ("adamw", "sam"), "tasks": ("reuters", "tweets"), "seeds": (0, 1)}


def test_a_panel_for_each_merge_that_is_one_model():
    results = typed(with_held_out(mapping(**SMALL)))
    summary, colour = summarize(results), colours(results.arms)
    curves = held_out_curves(summary, "limited", METRIC, colour, "held0")
    trade_off = trade_off_figure(summary, "limited", METRIC, METRIC, colour, "trade0")
    for svg in (curves, trade_off):
        texts = [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()]
        assert "task arithmetic" in texts
        assert "average" not in texts
    assert "trained, accuracy, %" in trade_off
    assert ">0.1<" in trade_off  # the least coefficient is written, and the greatest
    assert ">1<" in trade_off


def test_one_coefficient_makes_no_path():
    results = with_held_out(mapping(**SMALL, methods=("ties",)))
    for cell in results["cells"]:
        merge = cell["merges"]["ties"]
        merge["curve"] = [point for point in merge["curve"] if point["coefficient"] == 0.5]
        merge["per_task"]["coefficients"] = dict.fromkeys(("reuters", "tweets"), 0.5)
    results = typed(results)
    assert trade_off_figure(summarize(results), "limited", METRIC, METRIC, colours(results.arms), "t") == ""
