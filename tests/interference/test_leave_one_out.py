"""Leave-one-out against merges written out."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from saft.interference.culprit import verdict
from saft.interference.leave_one_out import LeaveOneOut
from saft.interference.task_space import Scored, TaskSpace


def test_agrees_with_the_dense_merges(space, dense):
    measured = LeaveOneOut().values(space)
    every = dict.fromkeys(space.tasks, 0.4)
    for j in space.tasks:
        rest = {task: c for task, c in every.items() if task != j}
        changes = {t: dense.score(t, rest) - dense.score(t, every) for t in space.tasks}
        assert measured["contribution"][j] == pytest.approx(-changes.pop(j))
        assert measured["harm"][j] == pytest.approx(changes)
        errors = {t: dense.paired_error(t, rest, every) for t in space.tasks}
        assert measured["contribution_error"][j] == pytest.approx(errors.pop(j))
        assert measured["harm_error"][j] == pytest.approx(errors)


def test_harm_is_positive_where_a_task_is_better_off_without_another(space):
    right = torch.tensor([1.0] * 9 + [0.0])

    def score():
        some = right if "b" not in space._at.merged else right * torch.tensor([1.0, 0.0] * 5)
        return Scored(float(some.mean()), None, some)

    space.probes["a"].score = score
    assert LeaveOneOut().values(space)["harm"]["b"]["a"] == pytest.approx(0.4)


def told(of: dict[str, tuple[int, int]], merged: tuple[str, ...]) -> Tensor:
    """Which of 40 examples are right: the first 24, and from, to of each other that is not merged."""
    right = torch.zeros(40, dtype=torch.float64)
    right[:24] = 1
    for other, (start, end) in of.items():
        if other not in merged:
            right[start:end] = 1
    return right


def test_a_harm_is_seen_by_the_examples_that_change(space):
    """Six of 40 examples of a, and six of c, are wrong by b's vector only: seen, since no other changes.

    As scores of different examples, 60 and 75 % would be told from each other by nobody: their standard
    errors are 8 and 7 points.
    """
    changes = {"a": {"b": (24, 30)}, "b": {}, "c": {"b": (24, 30), "a": (39, 40)}}
    for task, of in changes.items():

        def score(of=of):
            right = told(of, space._at.merged)
            mean = float(right.mean())
            return Scored(mean, (mean * (1 - mean) / 40) ** 0.5, right)

        space.probes[task].score = score
    measured = LeaveOneOut().values(space)
    assert measured["harm"]["b"] == pytest.approx({"a": 6 / 40, "c": 6 / 40})
    error = math.sqrt((8 / 42 - (6 / 42) ** 2) / 42)  # with one example more of either way
    assert measured["harm_error"]["b"] == pytest.approx({"a": error, "c": error})
    percent = {
        name: replace(LeaveOneOut.quantities[name], unit="%", scale=100, decimals=1) for name in measured
    }
    (sentence,) = verdict(measured, percent)
    half = NormalDist().inv_cdf(1 - 0.025 / 3) * error / math.sqrt(2)
    assert sentence == (
        "b hurts the merge most: without it the others gain 15.0 % on average (95 % interval "
        f"{15 - 100 * half:.1f} to {15 + 100 * half:.1f}; a +15.0, c +15.0)."
    )
    unpaired = math.sqrt((0.6 * 0.4 + 0.75 * 0.25) / 40)
    assert NormalDist().inv_cdf(1 - 0.025 / 3) * unpaired / math.sqrt(2) > 0.15  # nobody would be named


def test_of_one_task_nothing_can_be_left_out(space):
    only = {"a": space.experts["a"]}
    assert LeaveOneOut().values(TaskSpace(space.trunk, space.base, only, space.probes)) == {}
