"""How figures are drawn: colours, marks that do without colour, panels."""

from __future__ import annotations

import pytest

from saft.report.drawing import NAMED, colours, mark_of, panels, shade_of, sign_of, stroke_of
from saft.report.results import ArmFacts

PLAIN, SHARP = ArmFacts("AdamW", None, None, 10, 10), ArmFacts("SAM", "sam", 0.05, 10, 20)


def test_arms_are_told_apart_without_colour_and_many_of_them_with_it():
    arms = {f"plain {i}": PLAIN for i in range(40)} | {f"sharp {i}": SHARP for i in range(40)}
    named = colours(arms)
    assert len({(shade_of(colour), sign_of(colour)) for colour in named.values()}) == 80
    few = [f"{sort} {i}" for sort in ("plain", "sharp") for i in range(8)]
    marks = [mark_of(named[arm]) for arm in few]
    shapes = {(mark["marker"], mark["markerfacecolor"] == "none") for mark in marks}
    assert len(shapes) == len({sign_of(named[arm]) for arm in few}) == len(few)
    assert all(mark_of(colour)["color"] == NAMED[shade_of(colour)] for colour in named.values())
    assert stroke_of(named["plain 0"])["linestyle"] != stroke_of(named["sharp 0"])["linestyle"]


@pytest.mark.slow
def test_a_panel_for_each_title_in_the_colours_of_the_page():
    def draw(axes, title, leftmost):
        axes.plot([0, 1], [0, 1], **mark_of("sharp-0"))
        axes.set_ylabel("left" if leftmost else "")

    svg = panels(["a_b", "c", "d"], draw, "name", "three <panels>", abreast=2, height=1.0, left=0.5)
    assert svg.count(">left<") == 2
    assert "a b" in svg
    assert 'aria-label="three &lt;panels&gt;"' in svg
    assert "var(--sharp-0)" in svg
    assert not [shade for shade in NAMED.values() if shade in svg]
