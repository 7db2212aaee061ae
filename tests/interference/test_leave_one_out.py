"""Leave-one-out against merges written out."""

from __future__ import annotations

import pytest

from saft.interference.leave_one_out import LeaveOneOut
from saft.interference.task_space import TaskSpace


def test_agrees_with_the_dense_merges(space, dense):
    measured = LeaveOneOut().values(space)
    every = dict.fromkeys(space.tasks, 0.4)
    for j in space.tasks:
        rest = {task: c for task, c in every.items() if task != j}
        changes = {t: dense.score(t, rest) - dense.score(t, every) for t in space.tasks}
        assert measured["contribution"][j] == pytest.approx(-changes.pop(j))
        assert measured["harm"][j] == pytest.approx(changes)


def test_harm_is_positive_where_a_task_is_better_off_without_another(space):
    space.probes["a"].score = lambda: (0.9 if "b" not in space._at.merged else 0.5, None)
    assert LeaveOneOut().values(space)["harm"]["b"]["a"] == pytest.approx(0.4)


def test_of_one_task_nothing_can_be_left_out(space):
    only = {"a": space.experts["a"]}
    assert LeaveOneOut().values(TaskSpace(space.trunk, space.base, only, space.probes)) == {}
