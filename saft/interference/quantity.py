"""What a measure gives: named numbers with unit and meaning; and the registry of measures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from saft.registry import Registry

__all__ = ["MEASURES", "Measure", "Measured", "Needs", "Quantity", "numbers_of", "quantities_of"]

Needs = Literal["weights", "loss", "functions"]
Measured = float | dict[str, float] | dict[str, dict[str, float]]  # of the set, of each task, of each pair


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
        """Return the number as tables print it, without its unit; a dash where it is not finite.

        Args:
            value: as the measure gave it, not scaled.
        """
        return f"{self.scale * value:.{self.decimals_of(value)}f}" if math.isfinite(value) else "–"

    def decimals_of(self, value: float) -> int:
        """Return how many decimals this value is printed with."""
        if self.decimals is not None:
            return self.decimals
        magnitude = math.floor(math.log10(abs(self.scale * value))) if value else 0
        return min(9, max(0, 2 - magnitude))


def numbers_of(measured: Measured | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield each number of a measured value, after the tasks that it is of.

    Example:
        >>> list(numbers_of({"a": {"b": 0.5}})), list(numbers_of(0.25))
        ([(('a', 'b'), 0.5)], [((), 0.25)])
    """
    if isinstance(measured, Mapping):
        for name, part in measured.items():
            yield from (((name, *rest), number) for rest, number in numbers_of(part))
    elif measured is not None:
        yield (), measured


class Measure(ABC):
    """What every measure tells of itself; `needs` says by which call it is made.

    Attributes:
        needs: "weights": a `WeightMeasure`, which reads task vectors; "loss": one that moves the weights of a
            model and evaluates its loss; "functions": one that compares the outputs of models.
        quantities: name -> what the number of this name is. Tables print it by this name.
    """

    needs: ClassVar[Needs]

    @property
    @abstractmethod
    def quantities(self) -> Mapping[str, Quantity]:
        """Name -> what the number of this name is."""


def quantities_of(measures: Iterable[Measure]) -> dict[str, Quantity]:
    """Return what the numbers of several measures are, by name.

    Args:
        measures: any, of weights or of the loss.
    """
    return {name: quantity for measure in measures for name, quantity in measure.quantities.items()}


MEASURES: Registry[type[Measure]] = Registry(Measure, "measure", "saft.interference")
