from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from saft.report.csv_tables import csv_tables
from saft.report.expected import ExpectedFigure, expected_figures
from saft.report.html import page
from saft.report.over_seeds import OverSeeds
from saft.report.results import Results
from saft.report.summary import summarize
from saft.report.terminal import table
from saft.tasks.metric import Metric
from tests.report.made_up import made_up, mapping, typed


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
    figures = {figure.name: figure for figure in expected_figures(results)}
    cells = [
        c
        for c in results.cells
        if c.arm == "sam" and c.train_size == next(iter(results.protocol.train_sizes))
    ]
    base = [score.test.value for score in results.base.values() if score.test is not None]
    assert means(figures["zero_shot"]) == pytest.approx([100 * fmean(base)])
    values = [[e.test.value for e in c.experts.values() if e.test is not None] for c in cells]
    assert means(figures["experts"]) == pytest.approx([100 * fmean(of_seed) for of_seed in values])
    merged = [c.merges["ties"].shared.test["tweets"].value for c in cells]  # type: ignore[index]
    assert means(figures["one"]) == pytest.approx([100 * value for value in merged])
    assert figures["other"].ours is None
    assert figures["no_arm"].ours is None
    assert figures["one"].of == "ties of sam, tweets"
    assert figures["zero_shot"].of == "the pretrained model"


def means(figure: ExpectedFigure) -> list[float]:
    assert figure.ours is not None
    return list(figure.ours.by_seed.values())


def of_one_seed(value: float | None) -> OverSeeds | None:
    return None if value is None else OverSeeds({0: value})


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [
        (66.0, "met"),
        (66.5, "met"),
        (66.54, "met"),  # printed as 66.5
        (66.56, "not met"),
        (65.4, "not met"),
        (None, "not run"),
        (math.nan, "not met"),
    ],
)
def test_the_tolerance_decides(ours: float | None, outcome: str) -> None:
    assert ExpectedFigure("average", 66.0, 0.5, "docs", of_one_seed(ours)).outcome == outcome


def test_the_tolerance_holds_to_its_last_digit() -> None:
    assert abs(50.1 - 50.0) > 0.1  # as floats have it
    assert ExpectedFigure("average", 50.0, 0.1, "docs", of_one_seed(50.1)).outcome == "met"


def test_a_dry_run_is_not_held_against_what_was_published() -> None:
    figure = ExpectedFigure("average", 66.0, 0.5, "docs", of_one_seed(66.0), comparable=False)
    assert figure.outcome == "not comparable"
    assert ExpectedFigure("average", 66.0, 0.5, "docs", comparable=False).outcome == "not run"


def test_there_is_no_mean_over_tasks_of_several_units() -> None:
    results = with_expected(
        all={"of": "ties", "value": 1.0}, one={"of": "ties", "task": "tweets", "value": 1.0}
    )
    tweets = results.protocol.tasks["tweets"]
    loss = Metric("loss", "nats", higher_is_better=False, scale=1.0, digits=3)
    results.protocol.tasks["tweets"] = replace(tweets, metric=loss)
    every, one = expected_figures(results)
    assert every.ours is None
    assert (one.unit, one.digits, one.ours is None) == ("nats", 3, False)


def test_the_table_of_them_is_there_where_there_are_any() -> None:
    results = with_expected(zero_shot={"of": "base", "value": 99.9}, gone={"of": "dare", "value": 1.0})
    heading, first, second = csv_tables(results, summarize(results))["expected.csv"].splitlines()
    assert heading.startswith("figure,of,unit,expected,tolerance,mean,")
    assert first.startswith("zero_shot,the pretrained model,%,99.9,0.1,")
    assert first.endswith(",not met,a paper")
    assert second == "gone,dare of adamw,%,1.0,0.1,,,,,,not run,a paper"
    plain = made_up()
    assert "expected.csv" not in csv_tables(plain, summarize(plain))


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
    figure = ExpectedFigure("correlation", -0.5, 0.1, "docs", of_one_seed(-0.52), digits=2)
    assert figure.written == ("−0.50 ± 0.1", "−0.52")


def test_no_published_digit_is_lost_and_seeds_have_their_spread() -> None:
    figure = ExpectedFigure("average", 66.48, 0.5, "docs", OverSeeds({0: 66.0, 1: 67.0}))
    assert figure.written == ("66.48 ± 0.5", "66.50 ± 0.71")
    assert ExpectedFigure("average", 66.0, 0.5, "docs", of_one_seed(math.nan)).written[1] == "–"


@pytest.mark.parametrize(
    ("values", "outcome"), [((math.nan, 0.6, 0.62), "met"), ((math.nan,) * 3, "not met")]
)
def test_a_seed_that_is_not_finite_keeps_no_report_from_being_written(
    values: tuple[float, ...], outcome: str
) -> None:
    made = mapping(arms=("adamw",), seeds=(0, 1, 2), methods=("ties",))
    made["config"]["expected"] = {"of": {"of": "ties", "value": 61.0, "tolerance": 0.1, "source": "a paper"}}
    for cell, value in zip(made["cells"], values, strict=True):
        for score in cell["merges"]["ties"]["shared"]["test"].values():
            score["value"] = value
    results = typed(made)
    (figure,) = expected_figures(results)
    assert figure.outcome == outcome
    _, row = csv_tables(results, summarize(results))["expected.csv"].splitlines()
    assert "nan" not in row
    assert (outcome == "met") == ("61.0 ± 1.4" in page(results))
