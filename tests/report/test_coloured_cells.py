"""Numbers as coloured cells, with one scale."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from saft.interference.quantity import Axis, Quantity
from saft.report.coloured_cells import STRONGEST, ColourScale, _labelled, cells_figure

TASKS = Axis("task", ("news", "tweets"))


def test_zero_has_no_colour_where_numbers_have_both_signs():
    scale = ColourScale.of([-0.2, 0.1, 0.4])
    assert scale.shade(0.0) == ("warm", 0.0)
    assert scale.shade(0.4) == ("warm", STRONGEST)
    assert scale.shade(-0.2) == ("cool", STRONGEST / 2)  # as strong as 0.2 would be


def test_numbers_of_one_sign_take_the_whole_scale():
    scale = ColourScale.of([60.0, 90.0])
    assert scale.shade(90.0) == ("warm", STRONGEST)
    assert scale.shade(60.0)[1] < 0.1
    below = ColourScale.of([-90.0, -60.0])
    assert below.shade(-90.0) == ("cool", STRONGEST)
    assert below.shade(-60.0)[1] < 0.1


def test_noise_does_not_take_the_whole_scale():
    scale = ColourScale.of([100.0, 100.1])
    assert abs(scale.shade(100.0)[1] - scale.shade(100.1)[1]) < 0.05
    assert ColourScale.of([0.0]).shade(0.0)[1] < 0.1


def test_zero_is_labelled_where_it_does_not_lie_on_an_end():
    what = Quantity("example", decimals=1)
    assert _labelled(ColourScale(-5.0, 8.0), what, 2.4) == [-5.0, 8.0, 0.0]
    assert _labelled(ColourScale(-0.6, 7.8), what, 2.4) == [-0.6, 7.8]
    assert _labelled(ColourScale(2.0, 8.0), what, 2.4) == [2.0, 8.0]


def drawn(*args, **options):
    return ElementTree.fromstring(cells_figure(*args, name="name", label="label", **options))


@pytest.mark.slow
def test_a_matrix_has_names_numbers_and_a_legend():
    cells = {("news", "tweets"): 0.25, ("tweets", "news"): -0.5, ("news", "news"): 1.0}
    what = Quantity("example", "%", per="pair", scale=100, decimals=1)
    texts = "|".join(drawn({"adamw": cells}, (TASKS, TASKS), what, plain=[("news", "news")]).itertext())
    for text in ("adamw", "25.0", "−50.0", "100.0", "news", "tweets", "%"):
        assert f"|{text}|" in texts
    assert (
        texts.count("|25.0|") == 2
    )  # in its cell, and at the end of the scale, which the diagonal is not on


@pytest.mark.slow
def test_a_plane_grows_upwards_and_a_fine_one_has_no_numbers():
    places = [f"{i / 50:g}" for i in range(51)]
    fine = {(a, b): float(a) for a in places for b in places[:3]}
    axes = Axis("up", tuple(places)), Axis("right", tuple(places[:3]))
    texts = [
        t.strip() for t in drawn({"": fine}, axes, Quantity("example", decimals=4)).itertext() if t.strip()
    ]
    assert "0.5000" in texts  # three cells in a line have room
    wide = {(b, a): float(a) for a in places for b in places[:3]}
    svg = drawn({"": wide}, axes[::-1], Quantity("example", decimals=4))
    written = [t for t in svg.itertext() if re.fullmatch(r"0\.\d{4}", t.strip())]
    assert len(written) <= 2  # the ends of the legend
