"""How every figure of the page is drawn: panels as inline SVG, in the colours of the page around it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any, Literal

from saft.report.plain_arms import plain_arms
from saft.report.results import ArmFacts
from saft.report.row_names import LETTER, broken, text_width

__all__ = [
    "BETWEEN",
    "NAMED",
    "SIGNS",
    "SMALLEST_SPAN",
    "WIDTH",
    "FigureKey",
    "Mark",
    "arms_key",
    "at_least",
    "colours",
    "mark_of",
    "panels",
    "shade_of",
    "sign_of",
    "stroke_of",
]

N_COLOURS = 5  # of each sort; the stylesheet defines --plain-0 ... and --sharp-0 ...
WIDTH = 10.6  # inches, as matplotlib counts; the page scales the figure to its own width
ABOVE, BELOW, BETWEEN = 0.3, 0.45, 0.3  # a panel, in inches
SMALLEST_TITLE = 6.0  # points
SMALLEST_SPAN = 0.05  # of the largest value that is drawn

# matplotlib wants numbers for colours, the page has names: one stands for the other until the SVG is written.
NAMED = {
    name: f"#0102{n:02x}" for n, name in enumerate(("ink", "muted", "rule", "paper", "warm", "cool"), 3)
} | {
    f"{sort}-{i}": f"#02{n:02x}{i:02x}" for n, sort in enumerate(("plain", "sharp")) for i in range(N_COLOURS)
}
# Shapes tell apart what has no colour: 8, so that with 5 colours 40 arms of a sort differ in one or both.
MARKS = "osD^v<>*"
SIGNS = {"sharp": "●■◆▲▼◀▶★", "plain": "○□◇△▽◁▷☆"}  # the same in text: plain arms are hollow

Mark = dict[str, Any]
Draw = Callable[[Any, str, bool], None]


@dataclass(frozen=True)
class FigureKey:
    """What explains a figure's colours, below its panels.

    Args:
        draw: fills axes that measure inches, from (0, 0) at the lower left.
        height: inches.
    """

    draw: Callable[[Any], None]
    height: float


def colours(arms: Mapping[str, ArmFacts]) -> dict[str, str]:
    """Return arm -> name of its colour and shape: one family for plain arms, one for the others.

    Example:
        >>> adamw, sam = ArmFacts("AdamW", None, None, 10, 10), ArmFacts("SAM", "sam", 0.05, 10, 20)
        >>> colours({"adamw": adamw, "sam": sam})
        {'adamw': 'plain-0', 'sam': 'sharp-0'}
    """
    counts = {"plain": 0, "sharp": 0}
    named, plain = {}, plain_arms(arms)
    for arm in arms:
        sort = "plain" if arm in plain else "sharp"
        named[arm] = f"{sort}-{counts[sort]}"
        counts[sort] += 1
    return named


def shade_of(colour: str) -> str:
    """Return the name of the colour itself, which the stylesheet defines.

    Example:
        >>> shade_of("sharp-1"), shade_of("sharp-6")
        ('sharp-1', 'sharp-1')
    """
    sort, index = colour.split("-")
    return f"{sort}-{int(index) % N_COLOURS}"


def sign_of(colour: str) -> str:
    """Return the shape of an arm's marks as a letter of a text.

    Example:
        >>> sign_of("sharp-1"), sign_of("sharp-6")
        ('■', '▶')
    """
    sort, index = colour.split("-")
    return SIGNS[sort][int(index) % len(MARKS)]


def mark_of(colour: str) -> Mark:
    """Return how the points of an arm are drawn: its colour and its shape, hollow if it is plain.

    Example:
        >>> mark_of("plain-1")["marker"], mark_of("plain-1")["markerfacecolor"]
        ('s', 'none')
    """
    sort, index = colour.split("-")
    shade = NAMED[shade_of(colour)]
    hollow = "none" if sort == "plain" else shade
    return {
        "color": shade,
        "marker": MARKS[int(index) % len(MARKS)],
        "markersize": 5,
        "markerfacecolor": hollow,
        "markeredgecolor": shade,
    }


def stroke_of(colour: str) -> Mark:
    """Return how the lines of an arm are drawn: dashed if it is plain, else solid."""
    return {
        "color": NAMED[shade_of(colour)],
        "linestyle": "-" if colour.startswith("sharp") else (0, (4, 1.5)),
        "linewidth": 1.3,
    }


def at_least(axes: Any, direction: Literal["x", "y"]) -> None:
    """Widen the range of a panel that is so narrow that noise would look like a gap.

    Args:
        axes: with everything drawn.
        direction: which of its ranges.
    """
    low, high = getattr(axes, f"get_{direction}lim")()
    missing = SMALLEST_SPAN * max(abs(low), abs(high)) - (high - low)
    if missing > 0:
        getattr(axes, f"set_{direction}lim")(low - missing / 2, high + missing / 2)


def arms_key(colour: Mapping[str, str], width: float = WIDTH) -> FigureKey:
    """Return the key that says which mark and line is whose.

    Args:
        colour: arm -> name of its colour.
        width: of the figure, inches.
    """
    places, x, line, written = {}, 0.1, 0, {arm: broken(arm, int((width - 0.7) / LETTER)) for arm in colour}
    for arm, text in written.items():
        need = 0.6 + text_width(text)
        if x + need > width and x > 0.1:
            x, line = 0.1, line + 1
        places[arm] = (x, line)
        x += need
        line += text.count("\n")  # of such a name, which is as wide as the figure
    height = 0.24 * (line + 1)

    def draw(axes: Any) -> None:
        for arm, (left, line) in places.items():
            y = height - 0.24 * line - 0.12
            axes.plot([left, left + 0.3], [y, y], **stroke_of(colour[arm]))
            axes.plot([left + 0.15], [y], **mark_of(colour[arm]))
            for i, text in enumerate(written[arm].split("\n")):
                axes.text(left + 0.38, y - 0.24 * i, text, va="center_baseline")

    return FigureKey(draw, height)


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
    below: float = BELOW,
    key: FigureKey | None = None,
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
        below: room for what is written below a panel, inches.
        key: explains the colours.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    pitch = (width - left) / abreast if panel_width is None else panel_width + BETWEEN
    written, sizes = _titles(titles, pitch - 0.1)
    above = ABOVE + 0.1 * max((text.count("\n") for text in written), default=0)
    line_height = above + height + below
    total = -(-len(titles) // abreast) * line_height + (0.0 if key is None else key.height)
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(width, total))
        for index, title in enumerate(titles):
            line, column = divmod(index, abreast)
            x = left + column * pitch
            y = total - line * line_height - above - height
            axes = figure.add_axes((x / width, y / total, (pitch - BETWEEN) / width, height / total))
            axes.set_title(written[index], fontsize=sizes[index])
            draw(axes, title, column == 0)
        if key is not None:
            axes = figure.add_axes((0, 0, 1, key.height / total))
            axes.set(xlim=(0, width), ylim=(0, key.height))
            axes.set_axis_off()
            key.draw(axes)
        text = StringIO()
        with warnings.catch_warnings():  # the page's fonts may have what matplotlib's has not
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name, label)


def _titles(titles: Sequence[str], room: float) -> tuple[list[str], list[float]]:
    """Return the titles of panels, and their sizes: smaller where they are long, then in lines."""
    written, sizes = [], []
    for title in titles:
        size = max(SMALLEST_TITLE, min(9.0, 8 * room / (text_width(title) or 1.0)))
        written.append(broken(title.replace("_", " "), max(1, int(8 * room / (LETTER * size) + 0.01))))
        sizes.append(size)
    return written, sizes


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
        "axes.titley": 1.0,  # where it is anyway; else all that is written around a panel is measured for it
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
