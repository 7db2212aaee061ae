"""Numbers as coloured cells: matrices of tasks, and planes over two scales, with one scale of colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.interference.quantity import Axis, Quantity
from saft.report.drawing import BETWEEN, NAMED, SMALLEST_SPAN, WIDTH, FigureKey, panels
from saft.report.row_names import RowNames, broken, text_width

__all__ = ["Cells", "ColourScale", "cells_figure"]

Cells = Mapping[tuple[str, str], float]  # (down, across) -> number
STRONGEST = 0.7  # opacity of the strongest colour: what is written on it is still read
SMALLEST_CELL, LOW_CELL = 0.36, 0.26  # inches wide, and high
MOST_LETTERS = 28  # of a line of the name of a column
TICK = 0.25  # room for one line of words, inches


@dataclass(frozen=True)
class ColourScale:
    """Which colour stands for which number: warm for positive ones, cool for negative ones.

    Attributes:
        low, high: the ends. Where they have different signs, the colour is none at zero; else it is faintest
            at the end that is nearer to zero.

    Example:
        >>> scale = ColourScale.of([-1.0, 0.5])
        >>> scale.shade(0.5), scale.shade(-1.0), scale.shade(0.0)
        (('warm', 0.35), ('cool', 0.7), ('warm', 0.0))
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> ColourScale:
        """Return the scale of all the numbers that are to be compared.

        Args:
            values: at least one.
        """
        values = list(values)
        low, high = min(values), max(values)
        if low < 0 < high:
            return cls(low, high)
        missing = SMALLEST_SPAN * max(abs(low), abs(high)) - (high - low)
        if missing > 0:
            low, high = low - missing / 2, high + missing / 2
        return cls(low, high)

    def shade(self, value: float) -> tuple[str, float]:
        """Return the name of a number's colour, and its opacity."""
        if self.low < 0 < self.high:
            strength = abs(value) / max(-self.low, self.high)
        else:
            nearest = self.low if self.high > 0 else self.high
            strength = 0.06 + 0.94 * abs(value - nearest) / ((self.high - self.low) or 1.0)
        return ("warm" if value >= 0 else "cool"), round(STRONGEST * min(strength, 1.0), 3)


def cells_figure(
    shown: Mapping[str, Cells],
    axes: tuple[Axis, Axis],
    quantity: Quantity,
    name: str,
    label: str,
    plain: Sequence[tuple[str, str]] = (),
) -> str:
    """Return a panel of coloured cells for each title, with numbers where they fit, and one scale for all.

    Args:
        shown: title -> numbers.
        axes: down and across; one of numbers grows upwards, one of names is read downwards.
        quantity: what the numbers are.
        name, label: of the figure; see `panels`.
        plain: cells whose numbers say nothing, such as a task with itself: written, without a colour.
    """
    down, across = axes
    values = [v for cells in shown.values() for key, v in cells.items() if key not in plain]
    scale = ColourScale.of(values or [0.0])
    longest = max((len(quantity.format(v)) for cells in shown.values() for v in cells.values()), default=1)
    names = RowNames.of(down.ticks, WIDTH)
    left = TICK + 0.15 + names.width
    needed = max(SMALLEST_CELL, 0.12 + 0.85 * text_width("0" * longest))
    width = min(needed, (WIDTH - left - BETWEEN) / len(across.ticks))
    written = needed <= width
    columns = [broken(tick, MOST_LETTERS) for tick in across.ticks]
    longest_column = max(map(text_width, columns))
    rotated = longest_column > width
    below = 2 * TICK + 0.1 + (0.8 * longest_column if rotated else 0.0)
    panel_width = width * len(across.ticks)

    def draw(panel: Any, title: str, leftmost: bool) -> None:
        _cells(panel, shown[title], axes, quantity, scale, written, plain)
        panel.set_xticks([x + 0.5 for x in range(len(across.ticks))], columns)
        if rotated:
            panel.tick_params(axis="x", rotation=40)
            for tick in panel.get_xticklabels():
                tick.set(ha="right", rotation_mode="anchor")
        panel.set_yticks(
            [y + 0.5 for y in range(len(down.ticks))], names.written.values() if leftmost else []
        )
        panel.set_xlabel(across.name)
        if leftmost:
            panel.set_ylabel(down.name)

    return panels(
        list(shown), draw, name, label,
        abreast=max(1, int((WIDTH - left) / (panel_width + BETWEEN))),
        height=names.height(LOW_CELL) * len(down.ticks), left=left, panel_width=panel_width, below=below,
        key=_key(scale, quantity),
    )  # fmt: skip


def _cells(
    panel: Any, cells: Cells, axes: tuple[Axis, Axis], quantity: Quantity, scale: ColourScale,
    written: bool, plain: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    from matplotlib.patches import Rectangle

    down, across = axes
    for y, row in enumerate(down.ticks):
        for x, column in enumerate(across.ticks):
            value = cells.get((row, column))
            if value is None:
                continue
            shade, opacity = ("warm", 0.0) if (row, column) in plain else scale.shade(value)
            place, fill = (x + 0.03, y + 0.03), NAMED[shade]
            panel.add_patch(Rectangle(place, 0.94, 0.94, facecolor=fill, alpha=opacity, linewidth=0))
            if written:
                text = quantity.format(value)
                panel.text(x + 0.5, y + 0.52, text, ha="center", va="center_baseline", fontsize=7)
    panel.set_xlim(0, len(across.ticks))
    panel.set_ylim(*((0, len(down.ticks)) if down.is_numeric else (len(down.ticks), 0)))
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _key(scale: ColourScale, quantity: Quantity) -> FigureKey:
    """Return the legend: colours from the lowest number to the highest, with the numbers below."""
    steps, left, length = 24, 0.35, 2.4

    def draw(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        for i in range(steps):
            value = scale.low + (i + 0.5) / steps * (scale.high - scale.low)
            shade, opacity = scale.shade(value)
            corner = (left + i * length / steps, 0.24)
            axes.add_patch(
                Rectangle(corner, length / steps, 0.13, facecolor=NAMED[shade], alpha=opacity, linewidth=0)
            )
        for end in _labelled(scale, quantity, length):
            x = left + length * (end - scale.low) / ((scale.high - scale.low) or 1.0)
            axes.text(x, 0.17, quantity.format(end), ha="center", va="top", fontsize=7, color=NAMED["muted"])
        if quantity.unit:
            axes.text(left + length + 0.35, 0.24, quantity.unit, fontsize=7, color=NAMED["muted"])

    return FigureKey(draw, 0.45)


def _labelled(scale: ColourScale, quantity: Quantity, length: float) -> list[float]:
    """Return the numbers below the legend, `length` inches long: its ends, and zero where there is room."""
    ends = [scale.low, scale.high]
    if not scale.low < 0 < scale.high:
        return ends
    span = length / (scale.high - scale.low)
    room = min(
        span * abs(end) - (text_width(quantity.format(end)) + text_width(quantity.format(0.0))) / 2
        for end in ends
    )
    return [*ends, 0.0] if room > 0 else ends
