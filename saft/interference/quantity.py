"""What one measured number is: its unit, what it is taken over, one line of meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Quantity"]


@dataclass(frozen=True)
class Quantity:
    """Describes one named number that a measure gives, so that tables can print it without knowing it.

    Args:
        meaning: one line, for the legend of a table.
        unit: of the printed number: "%", "nats"; empty for a pure number.
        per: "set" for one number of all tasks together, "task" for one of each, "pair" for one of each pair.
        scale: the printed number is scale times the value; 100 for shares in percent.
        decimals: printed decimals; None prints three significant digits.

    Example:
        >>> Quantity("share of weights in conflict", unit="%", scale=100, decimals=1).format(0.5)
        '50.0'
        >>> Quantity("largest increase of the loss", unit="nats").format(0.01234)
        '0.0123'
    """

    meaning: str
    unit: str = ""
    per: Literal["set", "task", "pair"] = "set"
    scale: float = 1.0
    decimals: int | None = None

    def format(self, value: float) -> str:
        """Return the number as tables print it, without its unit; a dash where it is not finite."""
        if not math.isfinite(value):
            return "–"
        decimals = self.decimals
        if decimals is None:
            magnitude = math.floor(math.log10(abs(self.scale * value))) if value else 0
            decimals = min(9, max(0, 2 - magnitude))
        return f"{self.scale * value:.{decimals}f}"
