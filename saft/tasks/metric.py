"""What a task's scores are: name, unit, direction; and one score with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saft.written import as_number

__all__ = ["Metric", "Score"]

_NONE = -math.inf, math.inf
_LIMITS = {
    **dict.fromkeys(["accuracy", "token accuracy", "exact match", "macro F1", "micro F1"], (0.0, 1.0)),
    **dict.fromkeys(["Matthews", "Pearson", "Spearman"], (-1.0, 1.0)),
}
"""Of metrics whose name says it: what another task calls otherwise may be anything."""


@dataclass(frozen=True)
class Metric:
    """What a score is, and how it is printed.

    Args:
        name: as in "validation accuracy".
        unit: of the printed figure: "%", "nats"; empty for a pure number.
        higher_is_better: the direction.
        scale: the printed figure is scale times the value: 100 for an accuracy, which is a fraction.
        digits: printed decimals.

    Example:
        >>> Metric("accuracy", "%").format(0.813)
        '81.3'
        >>> Metric("perplexity", "", higher_is_better=False, scale=1).is_better(12.0, 14.0)
        True
    """

    name: str
    unit: str
    higher_is_better: bool = True
    scale: float = 100.0
    digits: int = 1

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value that there is, raw; not finite where that is not known."""
        return _LIMITS.get(self.name, _NONE) if self.scale == 100 else _NONE

    def is_better(self, a: float, b: float) -> bool:
        """Return whether value `a` is better than value `b`."""
        return a > b if self.higher_is_better else a < b

    def format(self, value: float) -> str:
        """Return a value as tables print it, without its unit; a dash where it is not finite."""
        return as_number(self.scale * value, self.digits) if math.isfinite(value) else "–"


@dataclass(frozen=True)
class Score:
    """One value of a metric on one set of examples.

    Args:
        value: raw: an accuracy as a fraction, a loss in nats.
        standard_error: of this value, from the finite number of examples; None where it is not known.
        examples: how many were evaluated.

    Example:
        >>> Score(0.813, standard_error=0.02, examples=400).value
        0.813
    """

    value: float
    standard_error: float | None
    examples: int
