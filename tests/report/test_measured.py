"""Measured quantities as tables, whatever they are."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

from rich.console import Console

from saft.interference.quantity import Quantity
from saft.report.measured import heading, measured_tables, with_spread
from saft.report.over_seeds import OverSeeds


def printed(renderable):
    file = io.StringIO()
    Console(file=file, width=80).print(renderable)
    return file.getvalue()


QUANTITIES = {
    "norm": Quantity("length", per="task", decimals=2),
    "cosine": Quantity("direction", per="pair", decimals=2),
    "drift": Quantity("of the outputs of one on the inputs of another", per="pair", decimals=2),
    "by_layer": Quantity("a number of each layer", per="grid", axes=("layer",), decimals=3),
    "line": Quantity("a line of each task", per="grid", axes=("task", "coefficient"), decimals=2),
    "plane": Quantity("a plane of each pair", per="grid", axes=("task", "other task", "x", "y")),
    "sign_conflict": Quantity("signs", "%", scale=100, decimals=1),
    "sign_conflict_trimmed": Quantity("signs; of trimmed task vectors", "%", scale=100, decimals=1),
}


def test_one_set_of_models():
    measured = {
        "norm": {"a[b]": 1.5, "b": 2.0},
        "cosine": {"a[b]": {"a[b]": 1.0, "b": 0.25}, "b": {"a[b]": 0.25, "b": 1.0}},
        "drift": {"a[b]": {"b": 0.5}, "b": {"a[b]": 0.75}},
        "by_layer": {"layer.0": 0.125, "outside": 0.5},
        "line": {"a[b]": {"0": 0.5, "1": 0.25}, "b": {"0": 1.5, "1": 1.25}},
        "plane": {"a[b]": {"b": {"0": {"1": 0.5}}}},
        "sign_conflict": 0.5,
        "sign_conflict_trimmed": 0.25,
    }
    text = printed(measured_tables(measured, QUANTITIES))
    assert re.search(r"a\[b\]\s+1\.50", text)
    assert re.search(r"a\[b\] – b\s+0\.25", text)
    assert re.search(r"each layer\s+layer\s+by layer\s+─+\s+layer.0\s+0\.125\s+outside\s+0\.500", text)
    assert re.search(r"line: task ↓,\s+coefficient →\s+0\s+1\s+─+\s+a\[b\]\s+0\.50\s+0\.25\s+b\s+1\.50", text)
    assert "only in the JSON file, --out=FILE: plane" in text
    # Drift has a direction, cosine has none.
    assert re.search(r"drift: task ↓,\s+task →\s+a\[b\]\s+b\s+─+\s+a\[b\]\s+–\s+0\.50\s+b\s+0\.75\s+–", text)
    assert "±" not in text
    assert re.search(r"sign conflict, %\s+50\.0", text)
    assert "sign conflict: signs" in text
    assert "sign conflict trimmed: " not in text
    assert "trimmed: the same" in text


def test_a_standard_error_stands_behind_its_number():
    """Whatever the number is of: a matrix, a task, a pair in both orders, or all together."""
    harm = Quantity("harm of", "%", per="pair", scale=100, decimals=1)
    room, even, loss = replace(harm, per="task", axes=()), replace(harm), Quantity("loss", decimals=2)
    of = {"harm": harm, "room": replace(room, axes=("task",)), "even": even, "loss": loss}
    measured = {
        "harm": {"a": {"b": 0.04}, "b": {"a": -0.02}},
        "room": {"a": 0.1, "b": 0.2},
        "even": {"a": {"b": 0.5}, "b": {"a": 0.5}},
        "loss": 1.5,
    }
    quantities = of | {f"{name}_error": quantity.paired_error(name) for name, quantity in of.items()}
    errors = {
        "harm_error": {"a": {"b": 0.012}, "b": {"a": math.nan}},
        "room_error": {"a": 0.031},
        "even_error": {"a": {"b": 0.002}, "b": {"a": 0.002}},
        "loss_error": 0.25,
    }
    text = printed(measured_tables(measured | errors, quantities))
    assert re.search(r"a\s+–\s+4\.0 ± 1\.2\s+b\s+−2\.0\s+–", text)
    assert re.search(r"a\s+10\.0 ± 3\.1\s+b\s+20\.0\n", text)
    assert re.search(r"a – b\s+50\.0 ± 0\.2", text)
    assert "1.50 ± 0.25" in text
    assert " error, %" not in text
    assert "harm: harm of\n" in text
    assert "±: the standard error; of a difference of scores, over the same examples" in text
    assert "trimmed: " not in text


def test_a_spread_has_the_decimals_of_its_mean():
    assert with_spread(OverSeeds({0: 0.0123, 1: 0.0125}), Quantity("length")) == "0.0124 ± 0.0001"
    assert with_spread(None, Quantity("length")) == "–"
    assert heading("sign_conflict", QUANTITIES["sign_conflict"]) == "sign conflict, %"
