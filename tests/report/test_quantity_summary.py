"""What was measured of an arm, over its seeds."""

from __future__ import annotations

import math

from saft.interference.quantity import OWN_LOSS, OWN_METRIC, Quantity
from saft.report.quantity_summary import quantity_summary

TASKS = ["a", "b"]


def test_a_mean_over_pairs_leaves_out_a_task_with_itself():
    cosines = {0: {"a": {"a": 1.0, "b": 0.25}, "b": {"a": 0.75, "b": 1.0}}}
    summary = quantity_summary(cosines, Quantity("angle", per="pair"), TASKS)
    assert summary.mean.mean == 0.5
    assert summary.numbers["a", "b"].mean == 0.25
    assert summary.numbers["a", "a"].mean == 1.0


def test_there_is_no_mean_unless_all_are_there():
    norms = {0: {"a": 1.0}, 1: {"a": 2.0, "b": 4.0}, 2: None, 3: {"a": 1.0, "b": math.nan}}
    summary = quantity_summary(norms, Quantity("length", per="task"), TASKS)
    assert summary.mean.by_seed == {1: 3.0}
    assert summary.numbers["a",].by_seed == {0: 1.0, 1: 2.0, 3: 1.0}


def test_of_something_else_there_are_numbers_and_no_mean():
    line = Quantity("loss", per="grid", axes=("task", "coefficient"))
    summary = quantity_summary({0: {"a": {"0": 1.0, "1": 2.0}}}, line, TASKS)
    assert summary.mean is None
    assert summary.numbers["a", "1"].mean == 2.0


def test_of_accuracies_and_perplexities_there_is_no_mean():
    kept = {0: {"a": 0.9, "b": 12.0}}
    assert quantity_summary(kept, Quantity("score kept", per="task", unit="nats"), TASKS).mean is not None
    for unit in (OWN_METRIC, OWN_LOSS):
        summary = quantity_summary(kept, Quantity("score kept", per="task", unit=unit), TASKS)
        assert summary.mean is None
        assert summary.numbers["b",].mean == 12.0
