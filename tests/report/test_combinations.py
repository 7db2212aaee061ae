"""Numbers over scales, by task and pair of tasks."""

from __future__ import annotations

from saft.interference.quantity import Quantity
from saft.report.combinations import by_combination, mean_of_parts
from saft.report.over_seeds import OverSeeds
from saft.report.shape import shape_of

TASKS = ["a", "b", "c"]


def parts(numbers, axes=("layer", "task", "task")):
    numbers = {key: OverSeeds({0: value}) for key, value in numbers.items()}
    shape = shape_of(Quantity("example", per="grid", axes=axes), numbers, TASKS)
    return {
        title: {place: values.mean for place, values in part.items()}
        for title, part in by_combination(numbers, shape).items()
    }


def test_a_pair_without_direction_is_there_once():
    same = {("0", s, t): float(ord(s) + ord(t)) for s in TASKS for t in TASKS}
    assert list(parts(same)) == ["a – b", "a – c", "b – c"]
    assert parts(same)["a – b"] == {("0",): 195.0}


def test_a_pair_with_a_direction_is_there_in_both():
    directed = {("0", s, t): float(ord(s)) for s in TASKS[:2] for t in TASKS[:2]}
    assert parts(directed) == {"a – b": {("0",): 97.0}, "b – a": {("0",): 98.0}}


def test_what_has_no_tasks_is_one_part():
    assert parts({("0",): 1.0, ("1",): 2.0}, ("layer",)) == {"": {("0",): 1.0, ("1",): 2.0}}


def test_a_mean_is_of_the_places_and_seeds_that_all_have():
    one = {("0",): OverSeeds({0: 1.0, 1: 5.0}), ("1",): OverSeeds({0: 1.0})}
    assert mean_of_parts({"a": one, "b": {("0",): OverSeeds({0: 3.0})}}) == {("0",): OverSeeds({0: 2.0})}
