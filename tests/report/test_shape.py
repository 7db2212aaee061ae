"""What a quantity goes over, and how it is drawn for that."""

from __future__ import annotations

import pytest

from saft.interference.quantity import Quantity
from saft.report.shape import shape_of

TASKS = ["a", "b"]


@pytest.mark.parametrize(
    ("axes", "key", "kind"),
    [
        ((), (), "number"),
        (("task",), ("a",), "tasks"),
        (("without", "task"), ("a", "b"), "matrix"),
        (("layer",), ("layer.0",), "curves"),
        (("task", "coefficient"), ("a", "0.5"), "curves"),
        (("task", "other task", "share"), ("a", "b", "0.5"), "curves"),
        (("task", "other task", "x", "y"), ("a", "b", "0.5", "1"), "planes"),
        (("x", "y"), ("0.5", "1"), "planes"),
        (("x", "y", "z"), ("0.5", "1", "2"), "table"),
        (("task", "task", "task"), ("a", "b", "a"), "table"),
    ],
)
def test_a_quantity_is_drawn_by_what_it_goes_over(axes, key, kind):
    shape = shape_of(Quantity("example", per="grid", axes=axes), [key], TASKS)
    assert shape.kind == kind
    assert len(shape.of_tasks) + len(shape.scales) == len(axes)


def test_a_scale_of_numbers_is_in_order_and_one_of_names_as_it_came():
    line = Quantity("example", per="grid", axes=("task", "x"))
    keys = [("b", "10"), ("b", "9"), ("a", "-1")]
    assert [axis.ticks for axis in shape_of(line, keys, TASKS).axes] == [("a", "b"), ("-1", "9", "10")]
    layers = Quantity("example", per="grid", axes=("layer",))
    assert shape_of(layers, [("outside",), ("layer.0",)], TASKS).axes[0].ticks == ("outside", "layer.0")
