"""Merges that keep a part per task, in every form of the report: marked, and in no mean over methods."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from saft.report.csv_tables import csv_tables
from saft.report.drawing import colours
from saft.report.expert_figures import retained_figure
from saft.report.figures import curve_figure, score_figure
from saft.report.headline import headlines
from saft.report.html import page
from saft.report.latex_tables import latex_tables
from saft.report.results import Results, from_json, to_json
from saft.report.summary import summarize
from saft.report.terminal import table
from tests.report.made_up import made_up, mapping, typed, with_held_out

ARMS = ("adamw", "sam")


def results(methods: tuple[str, ...] = ("ties", "emr"), keeping: tuple[str, ...] = ("emr",)) -> Results:
    made: dict[str, Any] = mapping(arms=ARMS, methods=methods)
    for cell in made["cells"]:
        for method in keeping:
            cell["merges"][method]["parts"] = {"shared": 87_000_000, "each": 2_700_000}
    return typed(made)


def printed(of: Results) -> str:
    console = Console(width=60)
    with console.capture() as capture:
        console.print(table(of))
    return capture.get()


def test_means_over_methods_are_of_those_that_give_one_model() -> None:
    both, alone = summarize(results()), summarize(made_up(arms=ARMS, methods=("ties",)))
    (compared,), (without,) = both.comparisons, alone.comparisons
    assert compared.methods == ["ties"]
    assert compared.merged == without.merged
    assert list(compared.by_method) == ["ties", "emr"]
    assert both.verdict == alone.verdict
    answers, expected = headlines(results(), both), headlines(made_up(arms=ARMS, methods=("ties",)), alone)
    assert [(of.merged, of.by_task) for of in answers] == [(of.merged, of.by_task) for of in expected]
    assert answers[0].merged != headlines(results(keeping=()), summarize(results(keeping=())))[0].merged


def test_where_none_gives_one_model_they_are_what_is_compared() -> None:
    summary = summarize(results(("emr",)))
    (compared,) = summary.comparisons
    assert compared.methods == ["emr"]
    assert "Means over methods" not in " ".join(summary.of_methods)


def test_an_arm_that_has_no_other_method_is_compared_by_it() -> None:
    made: dict[str, Any] = mapping(arms=ARMS, methods=("ties", "emr"))
    for cell in made["cells"]:
        cell["merges"]["emr"]["parts"] = {"shared": 0, "each": 8}
        if cell["arm"] == "sam":
            del cell["merges"]["ties"]
    (compared,) = summarize(typed(made)).comparisons
    assert compared.methods == ["emr"]
    (headline,) = headlines(typed(made), summarize(typed(made)))
    assert headline.over == "emr (part per task), the merge methods that all arms have"


def test_every_form_marks_them_and_says_what_is_stored() -> None:
    made = results()
    summary = summarize(made)
    (sentence,) = summary.of_methods
    assert "emr (part per task): each task is scored with a model of its own" in sentence
    assert "87.0 MB for all tasks and 2.7 MB for each. Means over methods are without it." in sentence
    terminal = " ".join(printed(made).split())
    assert sentence in terminal
    html = page(made)
    assert html.count("<th>emr (part per task)</th>") == 3  # shared, per task, arm against arm
    assert html.count(sentence) == 2
    tables = latex_tables(made, summary)
    assert "& ties & emr (part per task) " in tables["scores.tex"]
    assert "& emr (part per task) &" in tables["tasks.tex"]
    lines = csv_tables(made, summary)["scores.csv"].splitlines()
    assert lines[0].endswith(",part_bytes")
    assert {line.rpartition(",")[2] for line in lines if ",emr," in line} == {"2700000"}
    assert {line.rpartition(",")[2] for line in lines[1:] if ",emr," not in line} == {""}
    (metric,) = summary.metrics
    rows, colour = summary.of_size("limited"), colours(made.arms)
    for drawn in (
        score_figure(summary, "limited", metric, colour, "f"),
        curve_figure(summary, "limited", metric, colour, "f"),
        retained_figure(rows, metric, summary.tasks, colour, "f"),
    ):
        assert "emr (part per task)" in drawn


def test_on_tasks_that_are_held_out_they_have_no_column() -> None:
    made: dict[str, Any] = with_held_out(mapping(arms=ARMS, methods=("ties", "emr"), seeds=(0,)))
    for cell in made["cells"]:
        merge = cell["merges"]["emr"]
        merge["parts"] = {"shared": 0, "each": 8}
        del merge["shared"]["held_out"]
        for point in merge["curve"]:
            del point["held_out"]
    html = page(typed(made))
    (table,) = html.partition("Outside the tasks")[2].partition("<table>")[2].partition("</table>")[:1]
    assert "<th>ties</th>" in table
    assert "emr" not in table
    (part,) = printed(typed(made)).partition("Held out: ")[2].partition("Cost of one")[:1]
    assert "ties" in part
    assert "emr" not in part


def test_a_report_without_them_says_nothing_of_them() -> None:
    made = made_up(arms=ARMS)
    assert not summarize(made).of_methods
    assert "part per task" not in page(made) + printed(made)


@pytest.mark.parametrize("by", [0.05, -0.05])
def test_their_own_gain_is_told_beside_the_others(by: float) -> None:
    made: dict[str, Any] = mapping(arms=ARMS, methods=("ties", "emr"), gain=0.0, noise=0.0)
    for cell in made["cells"]:
        cell["merges"]["emr"]["parts"] = {"shared": 87, "each": 2}
        if cell["arm"] == "sam":
            for score in cell["merges"]["emr"]["shared"]["test"].values():
                score["value"] += by
    (compared,) = summarize(typed(made)).comparisons
    assert compared.by_method["emr"].mean == pytest.approx(by)
    assert compared.merged.values.mean == pytest.approx(0)


def test_what_is_stored_is_in_the_results_and_read_again() -> None:
    assert from_json(to_json(results())) == results()
