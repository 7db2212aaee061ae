from __future__ import annotations

from saft.coefficient import Point, per_task, shared

CURVE = [Point(0.2, {"a": 0.5, "b": 0.9}), Point(0.4, {"a": 0.6, "b": 0.8}), Point(0.6, {"a": 0.6, "b": 0.8})]


def test_shared_weighs_tasks_by_their_experts() -> None:
    assert shared(CURVE, {"a": 1.0, "b": 1.0}) == 0.2  # all equal: the smallest
    assert shared(CURVE, {"a": 0.6, "b": 0.9}) == 0.4  # a's gain counts for more: its expert is weaker


def test_an_expert_at_zero_does_not_divide() -> None:
    assert shared(CURVE, {"a": 0.0, "b": 0.5}) == 0.2


def test_per_task_takes_the_smallest_of_equals() -> None:
    assert per_task(CURVE) == {"a": 0.4, "b": 0.2}
