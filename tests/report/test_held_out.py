"""Tasks that are held out, wherever a report shows them."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from saft.errors import UserError
from saft.report import summarize
from saft.report.csv_tables import csv_tables
from saft.report.expected import expected_figures
from saft.report.html import page
from saft.report.latex_tables import latex_tables
from saft.report.side_by_side import side_by_side
from saft.report.terminal import table
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, PERPLEXITY, made_up, mapping, typed, with_held_out

METRIC, OTHER = Metric(**ACCURACY), Metric(**PERPLEXITY)
SMALL = {"arms": ("adamw", "sam"), "tasks": ("reuters", "tweets"), "seeds": (0, 1)}


def held_out(task="general", **options):
    return with_held_out(mapping(**SMALL | options), task)


def test_each_model_is_set_against_the_pretrained_one():
    summary = summarize(typed(held_out()))
    kept = summary.rows["limited", "sam"].held_out[METRIC]
    assert kept.experts.mean.mean == pytest.approx(0.55)
    assert kept.experts.change.mean == pytest.approx(-0.05)
    assert list(kept.merges) == ["task_arithmetic", "ties", "pcb"]  # `average` has no score there
    assert kept.merges["ties"].change.mean == pytest.approx(-0.025)
    assert kept.curves["ties"][1.0].by_seed == pytest.approx({0: 0.55, 1: 0.55})
    assert summary.missing == []


def test_it_takes_no_part_in_scores_gains_and_verdicts():
    with_it, without = summarize(typed(held_out())), summarize(made_up(**SMALL))
    assert with_it.comparisons == without.comparisons
    assert with_it.verdict == without.verdict
    assert with_it.tasks == without.tasks


def test_without_the_test_split_the_validation_scores_are_shown():
    kept = summarize(typed(held_out(test=False))).rows["limited", "sam"].held_out[METRIC]
    assert kept.merges["ties"].change.mean == pytest.approx(-0.025)


def test_a_score_that_is_not_finite_is_told():
    results = held_out()
    results["cells"][0]["merges"]["ties"]["shared"]["held_out"]["general"]["value"] = None
    assert "not finite: score of ties on general" in summarize(typed(results)).missing[0]


def test_results_that_know_no_such_task_are_refused():
    results = held_out()
    results["protocol"]["held_out"] = {}
    with pytest.raises(UserError, match=r"held_out: protocol\.held_out has no general"):
        typed(results)


def printed(results):
    console = Console(width=100, file=io.StringIO())
    console.print(table(results))
    return console.file.getvalue()


def test_the_terminal_has_a_table_of_it():
    text = printed(typed(held_out()))
    assert "Held out: general, test accuracy in percent; the pretrained model: 60.0" in text
    assert "(−2.5)" in text
    assert "Held out" not in printed(made_up(**SMALL))


def test_the_csv_has_the_scores_and_the_trade_off():
    results = typed(held_out())
    tables = csv_tables(results, summarize(results))
    rows = list(csv.DictReader(io.StringIO(tables["held_out.csv"])))
    (chosen,) = (
        r
        for r in rows
        if (r["arm"], r["model"], r["coefficient"], r["task"]) == ("sam", "ties", "shared", "general")
    )
    assert float(chosen["mean"]) == pytest.approx(0.575)
    at_one = {
        r["task"]: float(r["mean"])
        for r in rows
        if (r["arm"], r["model"], r["coefficient"]) == ("sam", "ties", "1.0")
    }
    assert at_one["mean over tasks held out"] == pytest.approx(0.55)
    assert at_one.keys() == {"mean over tasks held out", "mean over tasks"}
    assert [r["split"] for r in rows if r["model"] == "pretrained"] == ["validation", "test"]
    assert "held_out.csv" not in csv_tables(made_up(**SMALL), summarize(made_up(**SMALL)))


def latex(results):
    return latex_tables(results, summarize(results)).get("held_out.tex", "").splitlines()


def test_the_latex_has_each_model_against_the_pretrained_one():
    accuracy, perplexity = latex(typed(held_out())), latex(typed(held_out("stories")))
    assert accuracy[0] == "% limited: test accuracy in percent on tasks held out, one shared coefficient"
    assert accuracy[3].startswith("arm & model & general & mean & against pretrained")
    assert r"-- & pretrained & 60.0 & 60.0 & -- \\" in accuracy
    assert r"sam & ties & 57.5 $\pm$ 0.0 & 57.5 $\pm$ 0.0 & $-$2.5 \\" in accuracy
    assert any(line.startswith("sam & experts & ") and line.endswith(r"+0.50 \\") for line in perplexity)
    assert latex(made_up(**SMALL)) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["general", "stories"])
def test_the_page_has_table_curves_and_trade_off(task):
    html = page(typed(held_out(task)))
    assert "Outside the tasks" in html
    assert (
        "validation "
        + ("perplexity (lower is better)" if task == "stories" else "accuracy in percent")
        + " on tasks held out"
        in html.lower()
    )
    assert "the cross is the pretrained model" in html
    assert "<small>held out</small>" in html


def test_an_expected_figure_may_be_of_it():
    results = held_out()
    of = {"value": 57.5, "tolerance": 0.1, "source": "paper", "task": "general"}
    results["config"]["expected"] = {
        "merge": of | {"of": "ties"},
        "start": of | {"of": "base", "value": 60.0},
    }
    assert [figure.outcome for figure in expected_figures(typed(results))] == ["met", "met"]


def test_runs_side_by_side_have_what_each_holds_out():
    together = side_by_side({"a": typed(held_out()), "b": typed(held_out("stories")), "c": made_up(**SMALL)})
    assert list(together.protocol.held_out) == ["stories", "general"]
    summary = summarize(together)
    assert summary.rows["limited", "sam (a)"].held_out[OTHER].merges == {}
    assert summary.rows["limited", "sam (b)"].held_out[OTHER].experts.change.mean == pytest.approx(0.5)
    other = held_out()
    other["protocol"]["held_out"]["general"]["validation"] = 300
    with pytest.raises(UserError, match=r"held_out\.general\.validation: 300 in b, 400 in a"):
        side_by_side({"a": typed(held_out()), "b": typed(other)})
