"""The figures of the report as inline SVG, whose colours are those of the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from io import StringIO
from statistics import fmean
from typing import Any

from saft.report.arm_summary import MergeSummary
from saft.report.over_seeds import OverSeeds
from saft.report.results import ArmFacts
from saft.report.summary import Summary
from saft.report.verdict import in_words
from saft.tasks.metric import Metric

__all__ = ["N_COLOURS", "colours", "curve_figure", "score_figure"]

N_COLOURS = 5  # of each sort; the stylesheet defines --plain-0 ... and --sharp-0 ...
WIDTH = 10.6  # inches, as matplotlib counts; the page scales the figure to its own width
SMALLEST_SPAN = 0.05  # of the largest value

# matplotlib wants numbers for colours, the page has names: one stands for the other until the SVG is written.
NAMED = {"ink": "#010203", "muted": "#010204", "rule": "#010205"} | {
    f"{sort}-{i}": f"#02{n:02x}{i:02x}" for n, sort in enumerate(("plain", "sharp")) for i in range(N_COLOURS)
}


def colours(arms: Mapping[str, ArmFacts]) -> dict[str, str]:
    """Return arm -> name of its colour: one family for arms with ascent, one for those without.

    Example:
        >>> adamw, sam = ArmFacts("AdamW", None, None, 10, 10), ArmFacts("SAM", "sam", 0.05, 10, 20)
        >>> colours({"adamw": adamw, "sam": sam})
        {'adamw': 'plain-0', 'sam': 'sharp-0'}
    """
    counts = {"plain": 0, "sharp": 0}
    named = {}
    for arm, facts in arms.items():
        sort = "sharp" if facts.perturbation else "plain"
        named[arm] = f"{sort}-{counts[sort] % N_COLOURS}"
        counts[sort] += 1
    return named


def score_figure(summary: Summary, size: str, metric: Metric, colour: Mapping[str, str], name: str) -> str:
    """Return panels for experts and each merge method: a row per arm, a dot per seed, a bar at the mean.

    Args:
        summary: the experiment.
        size: the train size.
        metric: of the tasks that the means are over.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure, so that they are its own on the page.
    """
    rows = summary.of_size(size)
    scores = {row.arm: row.by_metric[metric] for row in rows}
    panels = {"experts": {arm: of_arm.experts.mean for arm, of_arm in scores.items()}}
    for method in summary.methods:
        merged = {arm: s.merges[method].shared.mean for arm, s in scores.items() if method in s.merges}
        panels[method.replace("_", " ")] = merged
    known = {title: {a: v for a, v in of.items() if v is not None} for title, of in panels.items()}
    known = {title: of_arms for title, of_arms in known.items() if of_arms}
    extents = {title: _extent(of_arms, metric) for title, of_arms in known.items()}
    if not extents:
        return ""
    # The same width in every panel, and never so narrow that noise looks like a gap.
    largest = max(abs(end) for ends in extents.values() for end in ends)
    span = max(SMALLEST_SPAN * largest, 1.2 * max(high - low for low, high in extents.values())) or 1.0

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        for i, row in enumerate(rows):
            if row.arm in known[title]:
                values, shade = known[title][row.arm], NAMED[colour[row.arm]]
                dots = [metric.scale * value for value in values.by_seed.values()]
                axes.plot(dots, [i] * len(dots), "o", color=shade, markersize=4, alpha=0.55, mew=0)
                axes.plot([metric.scale * values.mean] * 2, [i - 0.32, i + 0.32], color=shade, linewidth=2)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row.arm for row in rows] if leftmost else [""] * len(rows))
        centre = fmean(extents[title])
        axes.set_xlim(centre - span / 2, centre + span / 2)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x")

    label = f"{size}: {in_words(metric)} of experts and merged models, by arm, a dot per seed"
    left = 0.3 + 0.07 * max(len(row.arm) for row in rows)
    return _panels(list(known), 5, 0.3 + 0.24 * len(rows), draw, name, label, left=left)


def _extent(values: Mapping[str, OverSeeds], metric: Metric) -> tuple[float, float]:
    """Return the lowest and the highest value, as they are printed."""
    printed = [metric.scale * value for of_arm in values.values() for value in of_arm.by_seed.values()]
    return min(printed), max(printed)


def curve_figure(summary: Summary, size: str, metric: Metric, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each merge method: validation score by coefficient, rings where it was chosen.

    Args:
        summary, size, metric, colour, name: as in `score_figure`.
    """
    rows = summary.of_size(size)

    def draw(axes: Any, method: str, leftmost: bool) -> None:
        for row in rows:
            merge = row.by_metric[metric].merges.get(method)
            if merge is not None and merge.curve:
                _curve(axes, merge, metric, NAMED[colour[row.arm]])
        axes.set_xlabel("scaling coefficient")
        if leftmost:
            axes.set_ylabel(f"validation {metric.name}{', ' * bool(metric.unit)}{metric.unit}")
        axes.margins(0.06)
        axes.grid(axis="y")

    label = f"{size}: validation {in_words(metric)} over the scaling coefficient, by merge method and arm"
    return _panels(summary.methods, 4, 1.9, draw, name, label, left=0.6)


def _curve(axes: Any, merge: MergeSummary, metric: Metric, shade: str) -> None:
    curve = merge.curve
    coefficients = list(curve)
    means = [metric.scale * values.mean for values in curve.values()]
    style = "-" if shade in _shades("sharp") else (0, (4, 1.5))
    axes.plot(coefficients, means, linestyle=style, marker=".", markersize=4, color=shade, linewidth=1.3)
    if all(values.deviation is not None for values in curve.values()):
        low, high = (
            [metric.scale * end for end in ends] for ends in zip(*map(_band, curve.values()), strict=True)
        )
        axes.fill_between(coefficients, low, high, color=shade, alpha=0.12, linewidth=0)
    chosen = sorted(set(merge.shared_coefficients.values()) & set(coefficients))
    heights = [metric.scale * curve[coefficient].mean for coefficient in chosen]
    axes.plot(chosen, heights, "o", markersize=8, markerfacecolor="none", markeredgecolor=shade)


def _band(values: OverSeeds) -> tuple[float, float]:
    deviation = values.deviation or 0.0
    return values.mean - deviation, values.mean + deviation


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
