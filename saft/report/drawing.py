"""How every figure of the page is drawn: panels as inline SVG, in the colours of the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

from saft.report.results import ArmFacts

__all__ = ["N_COLOURS", "NAMED", "SIGNS", "Mark", "colours", "mark_of", "panels", "stroke_of"]

N_COLOURS = 5  # of each sort; the stylesheet defines --plain-0 ... and --sharp-0 ...
WIDTH = 10.6  # inches, as matplotlib counts; the page scales the figure to its own width
ABOVE, BELOW, BETWEEN = 0.3, 0.45, 0.3  # a panel, in inches

# matplotlib wants numbers for colours, the page has names: one stands for the other until the SVG is written.
NAMED = {"ink": "#010203", "muted": "#010204", "rule": "#010205", "warm": "#010206", "cool": "#010207"} | {
    f"{sort}-{i}": f"#02{n:02x}{i:02x}" for n, sort in enumerate(("plain", "sharp")) for i in range(N_COLOURS)
}
MARKS = "osD^v"  # of the colours of a sort, in this order: what has no colour is told apart by its shape
SIGNS = {"sharp": "●■◆▲▼", "plain": "○□◇△▽"}  # the same in text: plain arms are hollow

Mark = dict[str, Any]
Draw = Callable[[Any, str, bool], None]


def colours(arms: Mapping[str, ArmFacts]) -> dict[str, str]:
    """Return arm -> name of its colour: one family for plain arms, one for the others.

    Example:
        >>> adamw, sam = ArmFacts("AdamW", None, None, 10, 10), ArmFacts("SAM", "sam", 0.05, 10, 20)
        >>> colours({"adamw": adamw, "sam": sam})
        {'adamw': 'plain-0', 'sam': 'sharp-0'}
    """
    counts = {"plain": 0, "sharp": 0}
    named = {}
    for arm, facts in arms.items():
        sort = "plain" if facts.is_plain else "sharp"
        named[arm] = f"{sort}-{counts[sort] % N_COLOURS}"
        counts[sort] += 1
    return named


def mark_of(colour: str) -> Mark:
    """Return how the points of an arm are drawn: its colour and its shape, hollow if it is plain.

    Example:
        >>> mark_of("plain-1")["marker"], mark_of("plain-1")["markerfacecolor"]
        ('s', 'none')
    """
    sort, index = colour.split("-")
    shade = NAMED[colour]
    hollow = "none" if sort == "plain" else shade
    return {
        "color": shade,
        "marker": MARKS[int(index)],
        "markersize": 5,
        "markerfacecolor": hollow,
        "markeredgecolor": shade,
    }


def stroke_of(colour: str) -> Mark:
    """Return how the lines of an arm are drawn: dashed if it is plain, else solid."""
    return {
        "color": NAMED[colour],
        "linestyle": "-" if colour.startswith("sharp") else (0, (4, 1.5)),
        "linewidth": 1.3,
    }


def panels(
    titles: Sequence[str],
    draw: Draw,
    name: str,
    label: str,
    *,
    abreast: int,
    height: float,
    left: float,
    width: float = WIDTH,
    panel_width: float | None = None,
) -> str:
    """Return the SVG element of a panel for each title.

    Args:
        titles: of the panels, in their order.
        draw: fills the axes of a title; told whether they stand leftmost.
        name: begins the identifiers of the figure, so that they are its own on the page.
        label: what it shows, for those who do not see it.
        abreast: panels in a line.
        height: of a panel, inches.
        left: room for what is written left of the panels, inches.
        width: of the figure, inches.
        panel_width: inches; None shares out what there is.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    line_height = ABOVE + height + BELOW
    pitch = (width - left) / abreast if panel_width is None else panel_width + BETWEEN
    total = -(-len(titles) // abreast) * line_height
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(width, total))
        for index, title in enumerate(titles):
            line, column = divmod(index, abreast)
            x = left + column * pitch
            y = total - line * line_height - ABOVE - height
            axes = figure.add_axes((x / width, y / total, (pitch - BETWEEN) / width, height / total))
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
