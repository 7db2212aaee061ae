"""Curves in panels of one range."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from saft.report.over_seeds import OverSeeds
from saft.report.scale_curves import curves_figure

pytestmark = pytest.mark.slow
COLOUR = {"adamw": "plain-0", "sam": "sharp-0"}


def drawn(curves, **options):
    svg = curves_figure(curves, COLOUR, "name", "label", along="coefficient", up="loss, nats", **options)
    return "|".join(text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip())


def test_axes_and_arms_are_named_and_ranges_shared():
    low, high = {0.0: OverSeeds({0: 1.0}), 1.0: OverSeeds({0: 2.0})}, {0.0: OverSeeds({0: 90.0})}
    text = drawn({"news": {"adamw": low}, "tweets": {"sam": high}})
    assert text.count("coefficient") == 2
    assert text.count("loss, nats") == 1  # of the leftmost panel, whose numbers the other has no need of
    assert "|adamw|sam" in text
    assert "80" in text.split("tweets")[0]  # the panel of news reaches as far as that of tweets


def test_a_scale_of_names_has_its_names():
    curve = {0.0: OverSeeds({0: 1.0}), 1.0: OverSeeds({0: 2.0})}
    text = drawn({"": {"sam": curve}}, ticks={0.0: "outside", 1.0: "layer 0"})
    assert "outside|layer 0" in text


def test_nothing_is_no_figure():
    assert curves_figure({"news": {"adamw": {}}}, COLOUR, "name", "label", along="", up="") == ""
