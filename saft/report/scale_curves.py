"""Curves over a scale: a panel for each title, a line for each arm, and one range for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saft.report.drawing import NAMED, arms_key, mark_of, panels, shade_of, stroke_of
from saft.report.over_seeds import OverSeeds

__all__ = ["Curve", "curves_figure"]

Curve = Mapping[float, OverSeeds]  # place on the scale -> value
MOST_TICKS = 8
MOST_MARKS = 30  # a line of more points has no marks


def curves_figure(
    curves: Mapping[str, Mapping[str, Curve]],
    colour: Mapping[str, str],
    name: str,
    label: str,
    *,
    along: str,
    up: str,
    scale: float = 1.0,
    ticks: Mapping[float, str] | None = None,
    rings: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> str:
    """Return the SVG element, "" where there is nothing to draw; a band is one standard deviation over seeds.

    Args:
        curves: title -> arm -> its curve.
        colour: arm -> name of its colour, of the arms that the key names.
        name, label: of the figure; see `panels`.
        along, up: names of the two axes, with their units.
        scale: what is printed is so many times the value.
        ticks: place -> what it is called, of a scale of names.
        rings: title -> arm -> places that are marked on its curve.
    """
    curves = {title: {arm: c for arm, c in of.items() if c} for title, of in curves.items()}
    titles = [title for title, of_arms in curves.items() if of_arms]
    ends = [
        end
        for of_arms in curves.values()
        for curve in of_arms.values()
        for v in curve.values()
        for end in _band(v)
    ]
    if not ends:
        return ""
    low, high = scale * min(ends), scale * max(ends)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        for arm, curve in curves[title].items():
            _curve(axes, curve, scale, colour[arm])
            places = ((rings or {}).get(title) or {}).get(arm, ())
            heights = [scale * curve[x].mean for x in places]
            ring = {
                "markersize": 10,
                "markerfacecolor": "none",
                "markeredgecolor": NAMED[shade_of(colour[arm])],
            }
            axes.plot(places, heights, "o", **ring)
        if ticks is not None:
            shown = list(ticks.items())[:: -(-len(ticks) // MOST_TICKS)]
            axes.set_xticks([x for x, _ in shown], [text for _, text in shown])
        else:
            known = {x for curve in curves[title].values() for x in curve}
            axes.locator_params(axis="x", nbins=5, integer=all(float(x).is_integer() for x in known))
            if len(known) == 1:  # or there would be marks at parts of a step around it
                axes.set_xticks([*known], [f"{x:g}" for x in known])
        axes.set_xlabel(along)
        axes.set_ylim(low - margin, high + margin)
        axes.margins(x=0.06)
        axes.grid(axis="y")
        if leftmost:
            axes.set_ylabel(up)
        else:
            axes.set_yticklabels([])

    abreast = max(2, min(4, len(titles)))
    key = arms_key(colour)
    return panels(titles, draw, name, label, abreast=abreast, height=1.8, left=0.65, key=key)


def _curve(axes: Any, curve: Curve, scale: float, colour: str) -> None:
    places = sorted(curve)
    line = stroke_of(colour) | (mark_of(colour) if len(places) <= MOST_MARKS else {})
    axes.plot(places, [scale * curve[place].mean for place in places], **line)
    low, high = (
        [scale * end for end in ends] for ends in zip(*(_band(curve[x]) for x in places), strict=True)
    )
    if low != high:
        axes.fill_between(places, low, high, color=NAMED[shade_of(colour)], alpha=0.12, linewidth=0)


def _band(values: OverSeeds) -> tuple[float, float]:
    deviation = values.deviation or 0.0
    return values.mean - deviation, values.mean + deviation
