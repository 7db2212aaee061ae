"""The figures as CSV."""

from __future__ import annotations

import csv
import io

import pytest

from saft.report import summarize
from saft.report.csv_tables import csv_tables
from tests.report.made_up import METHODS, TASKS, mapping, typed


@pytest.fixture(scope="module")
def tables():
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1), tasks=(*TASKS, "stories"))
    results["cells"][0]["experts"]["tweets"]["memory"] = 2e9
    odd = 'a "b", c'
    for cell in results["cells"]:
        cell["arm"] = odd if cell["arm"] == "sam" else cell["arm"]
        cell["measured"]["plane"] = {"tweets": {"reviews": {"0": {"0.5": 0.25}}}}
    results["arms"] = {"adamw": results["arms"]["adamw"], odd: results["arms"]["sam"]}
    results["quantities"] = results["quantities"] | {
        "plane": {"meaning": "loss", "per": "grid", "axes": ["task", "other task", "x", "y"]}
    }
    results = typed(results)
    texts = csv_tables(results, summarize(results))
    return {name: list(csv.DictReader(io.StringIO(text))) for name, text in texts.items()}


def rows(table, **keys):
    return [row for row in table if all(row[key] == value for key, value in keys.items())]


def test_each_score_is_there_once_raw_and_with_its_spread(tables):
    scores = tables["scores.csv"]
    (of,) = rows(scores, arm='a "b", c', model="ties", coefficient="shared", task="tweets")
    assert 0.7 < float(of["mean"]) < 0.9
    assert float(of["low"]) < float(of["mean"]) < float(of["high"])
    assert of["seeds"] == "2"
    assert len(rows(scores, arm="adamw", task="tweets")) == 1 + 2 * len(METHODS)
    assert {row["metric"] for row in rows(scores, task="mean over tasks")} == {"accuracy", "perplexity"}
    assert len(rows(scores, model="pretrained")) == len(TASKS) + 1


def test_gains_costs_and_searches(tables):
    merged = rows(tables["gains.csv"], of="merged", metric="accuracy")
    assert [(row["arm"], row["against"]) for row in merged] == [('a "b", c', "adamw")]
    assert float(merged[0]["mean"]) == pytest.approx(0.01, abs=0.005)
    costs = {row["arm"]: row for row in tables["costs.csv"]}
    assert costs["adamw"]["passes"] == "100.0"
    assert costs["adamw"]["memory_bytes"] == ""  # known of one expert only
    assert len(tables["searches.csv"]) == 2 * len(METHODS)


def test_every_measured_number_is_there_however_deep(tables):
    measured = tables["measured.csv"]
    assert len(rows(measured, quantity="cosine", arm="adamw")) == 5 * 5 + 1
    (plane,) = rows(measured, quantity="plane", arm="adamw")
    assert (plane["of"], plane["mean"]) == ("tweets | reviews | 0 | 0.5", "0.25")
    assert rows(measured, quantity="sign_conflict", arm="adamw")[0]["of"] == ""
