from __future__ import annotations

import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from saft.report.expected import ExpectedFigure, expected_figures
from saft.report.html import page
from saft.report.results import Results
from saft.report.terminal import table
from tests.report.made_up import made_up


def with_expected(**expected: Any) -> Results:
    results = made_up()
    results.config["expected"] = {
        name: {"arm": None, "task": None, "tolerance": 0.1, "source": "a paper"} | keys
        for name, keys in expected.items()
    }
    return results


def test_each_figure_is_the_mean_over_seeds_and_tasks_of_what_it_names() -> None:
    results = with_expected(
        zero_shot={"of": "base", "value": 50.0},
        experts={"of": "experts", "arm": "sam", "value": 50.0},
        one={"of": "ties", "arm": "sam", "task": "tweets", "value": 50.0},
        other={"of": "no_method", "value": 50.0},
        no_arm={"of": "ties", "arm": "dropped", "value": 50.0},
    )
    ours = {figure.name: figure.ours for figure in expected_figures(results)}
    cells = [
        c
        for c in results.cells
        if c.arm == "sam" and c.train_size == next(iter(results.protocol.train_sizes))
    ]
    base = [score.test.value for score in results.base.values() if score.test is not None]
    assert ours["zero_shot"] == pytest.approx(100 * sum(base) / len(base))
    values = [e.test.value for c in cells for e in c.experts.values() if e.test is not None]
    assert ours["experts"] == pytest.approx(100 * sum(values) / len(values))
    merged = [c.merges["ties"].shared.test["tweets"].value for c in cells]  # type: ignore[index]
    assert ours["one"] == pytest.approx(100 * sum(merged) / len(merged))
    assert ours["other"] is None
    assert ours["no_arm"] is None


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [(66.0, "met"), (66.5, "met"), (65.4, "not met"), (None, "not run"), (math.nan, "not met")],
)
def test_the_tolerance_decides(ours: float | None, outcome: str) -> None:
    assert ExpectedFigure("average", 66.0, 0.5, "docs", ours).outcome == outcome


def test_the_page_and_the_terminal_set_them_beside_each_other() -> None:
    results = with_expected(
        zero_shot={"of": "base", "value": 99.9}, gone={"of": "average", "arm": "x", "value": 1.0}
    )
    out = StringIO()
    Console(file=out, width=120).print(table(results))
    for text in (out.getvalue(), page(results)):
        assert "99.9 ± 0.1" in text
        assert "not met" in text
        assert "not run" in text
        assert "a paper" in text
    assert "Published figures" not in page(made_up())


def test_a_minus_is_written_as_one() -> None:
    assert ExpectedFigure("correlation", -0.5, 0.1, "docs", -0.52, digits=2).written == (
        "−0.50 ± 0.1",
        "−0.52",
    )
