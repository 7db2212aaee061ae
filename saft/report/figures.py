"""The figures of the report as inline SVG, whose colours are those of the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from io import StringIO
from statistics import fmean
from typing import Any

from saft.report.statistic import Statistic
from saft.report.summary import ArmSummary, Summary

__all__ = ["N_COLOURS", "colours", "accuracy_figure", "curve_figure"]

N_COLOURS = 5  # of each sort; the stylesheet defines --plain-0 ... and --sharp-0 ...
WIDTH = 10.6  # inches, as matplotlib counts; the page scales the figure to its own width
SMALLEST_SPAN = 4.0  # points of accuracy

# matplotlib wants numbers for colours, the page has names: one stands for the other until the SVG is written.
NAMED = {"ink": "#010203", "muted": "#010204", "rule": "#010205"} | {
    f"{sort}-{i}": f"#02{n:02x}{i:02x}" for n, sort in enumerate(("plain", "sharp")) for i in range(N_COLOURS)
}


def colours(arms: Mapping[str, Any]) -> dict[str, str]:
    """Return arm -> name of its colour: one family for arms with ascent, one for those without.

    Example:
        >>> colours({"adamw": {"perturbation": None}, "sam": {"perturbation": "sam"}})
        {'adamw': 'plain-0', 'sam': 'sharp-0'}
    """
    counts = {"plain": 0, "sharp": 0}
    named = {}
    for arm, description in arms.items():
        sort = "sharp" if description.get("perturbation") else "plain"
        named[arm] = f"{sort}-{counts[sort] % N_COLOURS}"
        counts[sort] += 1
    return named


def accuracy_figure(summary: Summary, regime: str, colour: Mapping[str, str], name: str) -> str:
    """Return panels for experts and each merge method: a row per arm, a dot per seed, a bar at the mean."""
    rows = summary.of_regime(regime)
    panels = {"experts": {row.arm: row.experts for row in rows}}
    for method in summary.methods:
        found = {row.arm: row.merges[method].shared.absolute for row in rows if method in row.merges}
        panels[method.replace("_", " ")] = found
    height = 0.3 + 0.24 * len(rows)
    # The same number of points across in every panel, and never so few that noise looks like a gap.
    span = max(SMALLEST_SPAN, 1.2 * max(high - low for low, high in map(_extent, panels.values())))

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        for i, row in enumerate(rows):
            if row.arm in panels[title]:
                statistic, shade = panels[title][row.arm], NAMED[colour[row.arm]]
                values = [100 * value for value in statistic.by_seed.values()]
                axes.plot(values, [i] * len(values), "o", color=shade, markersize=4, alpha=0.55, mew=0)
                axes.plot([100 * statistic.mean] * 2, [i - 0.32, i + 0.32], color=shade, linewidth=2)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row.arm for row in rows] if leftmost else [""] * len(rows))
        centre = fmean(_extent(panels[title]))
        axes.set_xlim(centre - span / 2, centre + span / 2)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x")

    label = f"{regime}: accuracy of experts and merged models in percent, by arm, a dot per seed"
    return _panels(
        list(panels), 5, height, draw, name, label, left=0.3 + 0.07 * max(len(r.arm) for r in rows)
    )


def _extent(statistics: Mapping[str, Statistic]) -> tuple[float, float]:
    """Return the lowest and the highest value in percent."""
    values = [100 * value for statistic in statistics.values() for value in statistic.by_seed.values()]
    return min(values), max(values)


def curve_figure(summary: Summary, regime: str, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each merge method: validation accuracy by coefficient, rings where it was chosen."""
    rows = summary.of_regime(regime)

    def draw(axes: Any, method: str, leftmost: bool) -> None:
        for row in rows:
            if method in row.merges:
                _curve(axes, row, method, NAMED[colour[row.arm]])
        axes.set_xlabel("scaling coefficient")
        if leftmost:
            axes.set_ylabel("validation accuracy")
        axes.margins(0.06)
        axes.grid(axis="y")

    label = f"{regime}: validation accuracy in percent over the scaling coefficient, by merge method and arm"
    return _panels(summary.methods, 4, 1.9, draw, name, label, left=0.6)


def _curve(axes: Any, row: ArmSummary, method: str, shade: str) -> None:
    curve = row.merges[method].curve
    coefficients = list(curve)
    means = [100 * statistic.mean for statistic in curve.values()]
    style = "-" if shade in _shades("sharp") else (0, (4, 1.5))
    axes.plot(coefficients, means, linestyle=style, marker=".", markersize=4, color=shade, linewidth=1.3)
    if all(statistic.deviation is not None for statistic in curve.values()):
        low, high = ([100 * end for end in ends] for ends in zip(*map(_band, curve.values()), strict=True))
        axes.fill_between(coefficients, low, high, color=shade, alpha=0.12, linewidth=0)
    chosen = sorted(set(row.merges[method].shared.coefficients.values()) & set(coefficients))
    heights = [100 * curve[coefficient].mean for coefficient in chosen]
    axes.plot(chosen, heights, "o", markersize=8, markerfacecolor="none", markeredgecolor=shade)


def _band(statistic: Statistic) -> tuple[float, float]:
    deviation = statistic.deviation or 0.0
    return statistic.mean - deviation, statistic.mean + deviation


def _shades(sort: str) -> set[str]:
    return {shade for name, shade in NAMED.items() if name.startswith(sort)}


def _panels(
    titles: list[str],
    abreast: int,
    height: float,
    draw: Callable[[Any, str, bool], None],
    name: str,
    label: str,
    left: float,
) -> str:
    """Draw a panel of `height` inches for each title, `abreast` in a line, and return the SVG element."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    above, below, between = 0.3, 0.45, 0.3
    n_lines = -(-len(titles) // abreast)
    panel_width = (WIDTH - left) / abreast
    total = n_lines * (above + height + below)
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(WIDTH, total))
        for index, title in enumerate(titles):
            line, column = divmod(index, abreast)
            x = left + column * panel_width
            y = total - line * (above + height + below) - above - height
            axes = figure.add_axes((x / WIDTH, y / total, (panel_width - between) / WIDTH, height / total))
            axes.set_title(title.replace("_", " "))
            draw(axes, title, column == 0)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name, label)


def _style() -> dict[str, Any]:
    ink, muted, rule = (NAMED[name] for name in ("ink", "muted", "rule"))
    return {
        "axes.formatter.useoffset": False,
        "text.parse_math": False,  # a $ in a name is a $
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": "saft",  # the same identifiers in every run
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": rule,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "grid.color": rule,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": rule,
        "ytick.color": rule,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
    }


def _inline(svg: str, name: str, label: str) -> str:
    """Cut the document down to its `<svg>`, with colours by name and identifiers of the figure's own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, shade in NAMED.items():
        svg = svg.replace(shade, f"var(--{colour})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1).strip()
