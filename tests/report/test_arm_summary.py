"""One row of the report."""

from __future__ import annotations

import pytest

from saft.report.arm_summary import arm_summary
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, TASKS, made_up, mapping, typed

METRIC = Metric(**ACCURACY)
TASKS_OF = {METRIC: list(TASKS)}


def test_an_arm_without_cells_has_no_row():
    assert arm_summary(made_up(), "plenty", "sam", TASKS_OF, "test") is None
    assert arm_summary(made_up(arms=("adamw",)), "limited", "sam", TASKS_OF, "test") is None


def test_errors_are_those_of_the_scores_over_the_seeds():
    results = mapping(arms=("sam",), seeds=(0, 1))
    experts = [cell["experts"]["tweets"]["test"]["standard_error"] for cell in results["cells"]]
    row = arm_summary(typed(results), "limited", "sam", TASKS_OF, "test")
    assert row.by_metric[METRIC].experts.errors["tweets"] == pytest.approx(sum(experts) / 2)
    results["cells"][0]["experts"]["tweets"]["test"]["standard_error"] = None
    row = arm_summary(typed(results), "limited", "sam", TASKS_OF, "test")
    assert row.by_metric[METRIC].experts.errors["tweets"] is None
    assert row.by_metric[METRIC].experts.errors["reviews"] is not None


def test_steps_are_those_that_were_taken():
    results = mapping(arms=("sam",), seeds=(0, 1))
    results["cells"][1]["experts"]["tweets"]["steps"] = 50
    row = arm_summary(typed(results), "limited", "sam", TASKS_OF, "test")
    assert row.steps["tweets"] == [100, 50]
    assert row.steps["reviews"] == [100, 100]
