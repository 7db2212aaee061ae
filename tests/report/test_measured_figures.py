"""Whatever is measured is drawn by its shape."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from saft.report import summarize
from saft.report.drawing import colours
from saft.report.measured_figures import measured_figures
from tests.report.made_up import TASKS, mapping, typed

pytestmark = pytest.mark.slow

NAMES = list(TASKS)
GRID = ("0", "0.5", "1")
SHAPES = {
    "count": ({"per": "set"}, 3.0),
    "harm": (
        {"per": "pair", "axes": ["without", "task"], "unit": "nats", "cell": "by how much it hurts"},
        {s: {t: 0.1 * i for i, t in enumerate(NAMES) if t != s} for s in NAMES},
    ),
    "harm_error": (
        {"per": "pair", "axes": ["without", "task"], "error_of": "harm"},
        {s: {t: 0.01 + 0.01 * i for i, t in enumerate(NAMES) if t != s} for s in NAMES},
    ),
    "angle": (
        {"per": "pair"},
        {s: {t: 0.1 * i * j for i, t in enumerate(NAMES)} for j, s in enumerate(NAMES)},
    ),
    "same": ({"per": "pair"}, {s: dict.fromkeys(NAMES, 0.5) for s in NAMES}),
    "line": (
        {"per": "grid", "unit": "nats", "axes": ["task", "coefficient"]},
        {t: {x: float(x) + i for x in GRID} for i, t in enumerate(NAMES)},
    ),
    "by_layer": ({"per": "grid", "axes": ["layer"]}, {"encoder.layer.0": 0.25, "outside": 0.5}),
    "plane": (
        {"per": "grid", "axes": ["task", "other task", "x", "y"]},
        {s: {t: {a: {b: float(a) * float(b) for b in GRID} for a in GRID} for t in NAMES} for s in NAMES},
    ),
    "odd": ({"per": "grid", "axes": ["x", "y", "z"]}, {"0": {"0": {"0": 1.0}}}),
}


@pytest.fixture(scope="module")
def figures():
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1), methods=("ties",))
    results["quantities"] = {name: {"meaning": "example", **what} for name, (what, _) in SHAPES.items()}
    for cell in results["cells"]:
        cell["measured"] = {name: value for name, (_, value) in SHAPES.items()}
    results = typed(results)
    summary = summarize(results)
    rows = summary.of_size("limited")
    return {
        figure.heading: figure
        for figure in measured_figures(rows, results.quantities, summary.tasks, colours(results.arms), "m")
    }


def texts(figure):
    return [text.strip() for text in ElementTree.fromstring(figure.svg).itertext() if text.strip()]


def test_every_shape_has_a_picture_and_what_has_none_is_left_out(figures):
    assert list(figures) == [
        "All tasks together", "harm, nats, pair by pair", "angle, pair by pair", "same, pair by pair", "line, nats", "by layer", "plane"
    ]  # fmt: skip


def test_a_matrix_for_each_arm_with_its_axes(figures):
    words = texts(figures["harm, nats, pair by pair"])
    assert words.count("adamw") == words.count("sam") == 1
    assert words.count("without") == 1  # left of the first
    assert words.count("task") == 2
    label = ElementTree.fromstring(figures["harm, nats, pair by pair"].svg).get("aria-label")
    assert "sam: from 0.00 (newsgroups, reuters) to 0.300 (reuters, reviews)" in label


def test_a_matrix_says_what_rows_columns_and_a_cell_are(figures):
    assert figures["harm, nats, pair by pair"].caption == (
        "Rows: “without”; columns: “task”. Each cell, in nats, mean over seeds: by how much it hurts. The "
        "standard error of a cell with one seed is 0.0100 to 0.0400. One scale for all arms."
    )
    assert figures["angle, pair by pair"].caption == (
        "Rows and columns: “task”. Each cell, mean over seeds: example. One scale for all arms."
    )


def test_numbers_that_are_all_the_same_are_told(figures):
    assert figures["same, pair by pair"].svg == ""
    assert figures["same, pair by pair"].caption == "0.500 for every pair and arm."


def test_a_curve_for_each_task_and_one_over_layers(figures):
    words = texts(figures["line, nats"])
    assert [word for word in words if word in NAMES] == NAMES
    assert words.count("coefficient") == len(NAMES)
    assert "nats" in words
    assert {"0", "outside"} <= set(texts(figures["by layer"]))


def test_a_plane_for_each_arm_and_pair_or_their_mean(figures):
    words = texts(figures["plane"])
    assert "adamw: reuters – newsgroups" in words  # 4 tasks have 6 pairs, since it has no direction
    assert len([word for word in words if " – " in word]) == 12
