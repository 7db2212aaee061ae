"""What a measure gives: named numbers with unit and meaning; and the registry of measures."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

from saft.registry import Registry
from saft.written import as_number

__all__ = [
    "DIFFERENCE",
    "IN_LOSS",
    "IN_METRIC",
    "MEASURES",
    "OWN_LOSS",
    "OWN_METRIC",
    "Axis",
    "Figure",
    "Measure",
    "Measured",
    "Needs",
    "Passes",
    "Quantity",
    "numbers_of",
    "quantities_of",
]

Needs = Literal["weights", "loss", "functions", "merge"]
Measured: TypeAlias = "float | dict[str, float] | dict[str, dict[str, float]] | dict[str, dict[str, Any]]"
"""Of the set, of each task, of each pair; deeper where a quantity has more axes."""

IN_METRIC = "metric"
"""The unit of a quantity that is measured by the tasks' own metric."""
DIFFERENCE = "metric, difference"
"""The unit of a difference of two values of the tasks' own metric: points, where that is in percent."""
OWN_METRIC = "its own metric"
"""The unit of either, where the tasks' metrics have several units: numbers of tasks have no mean."""
IN_LOSS = "loss"
"""The unit of a quantity that is measured by the loss that the tasks are trained on."""
OWN_LOSS = "its own loss"
"""The unit of that, where the tasks' losses have several units: numbers of tasks have no mean."""


@dataclass(frozen=True)
class Quantity:
    """Describes one named number that a measure gives, so that tables can print it without knowing it.

    Args:
        meaning: one line, for the legend of a table.
        unit: of the printed number: "%", "nats"; empty for a pure number; `IN_METRIC` for that of the tasks'
            own metric, `DIFFERENCE` for a difference in it, `IN_LOSS` for that of their loss.
        per: "set" for one number of all tasks together, "task" for one of each, "pair" for one of each pair,
            "grid" where `axes` are others.
        scale: the printed number is scale times the value; 100 for shares in percent.
        decimals: printed decimals; None prints three significant digits.
        axes: what each level of the measured mapping goes over, the outermost first, such as ("model of",
            "examples of"); empty takes those of `per`.
        definition: the equation.
        source: where it comes from; empty where it is saft's own.
        error_of: name of the quantity whose standard error it is; tables print it behind that one.
        cell: of a pair, what one number of the matrix says, in words of its row and its column, and which
            way hurts; empty takes the meaning.
        name: its own, where results of several runs hold it under one with the run's; else empty.

    Example:
        >>> Quantity("share of weights in conflict", unit="%", scale=100, decimals=1).format(0.5)
        '50.0'
        >>> Quantity("largest increase of the loss", unit="nats").format(0.01234)
        '0.0123'
    """

    meaning: str
    unit: str = ""
    per: Literal["set", "task", "pair", "grid"] = "set"
    scale: float = 1.0
    decimals: int | None = None
    axes: tuple[str, ...] = ()
    definition: str = ""
    source: str = ""
    error_of: str = field(default="", compare=False)  # these say how it is shown, not what it is
    cell: str = field(default="", compare=False)
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        default = {"set": (), "task": ("task",), "pair": ("task", "task"), "grid": ()}[self.per]
        object.__setattr__(self, "axes", tuple(self.axes) or default)

    def paired_error(self, name: str) -> Quantity:
        """Return what the standard error of this quantity is, a difference of scores on the same examples.

        Args:
            name: of this quantity.
        """
        meaning = f"standard error of {name.replace('_', ' ')}, from the finite number of examples"
        definition = (
            "√(Σ_i (d_i − d̄)² / (n (n − 1))), d_i the difference that example i makes; where each is right "
            "or wrong, at least what one more of either way would make it"
        )
        return replace(self, meaning=meaning, definition=definition, source="", error_of=name, cell="")

    def format(self, value: float) -> str:
        """Return the number as tables print it, without its unit; a dash where it is not finite.

        Args:
            value: as the measure gave it, not scaled.
        """
        if not math.isfinite(value):
            return "–"
        return as_number(self.scale * value, self.decimals_of(value))

    def decimals_of(self, value: float) -> int:
        """Return how many decimals this value is printed with."""
        if self.decimals is not None:
            return self.decimals
        printed = abs(self.scale * value)
        magnitude = math.floor(math.log10(printed)) if printed >= 5e-10 else 0  # less is 0 in 9 decimals
        return min(9, max(0, 2 - magnitude))


@dataclass(frozen=True)
class Axis:
    """One direction of a figure: what it goes over, and the names or numbers along it, as texts.

    Example:
        >>> Axis("coefficient", ("0", "0.5")).is_numeric, Axis("task", ("news", "tweets")).is_numeric
        (True, False)
    """

    name: str
    ticks: tuple[str, ...]

    @property
    def is_numeric(self) -> bool:
        """Return whether it is a scale of numbers, to be drawn as one."""
        try:
            return all(math.isfinite(float(tick)) for tick in self.ticks)
        except ValueError:
            return False


@dataclass(frozen=True)
class Figure:
    """A measured quantity as a table of numbers with axes, by whose shape it can be drawn.

    Args:
        name: of the quantity.
        quantity: what it is: meaning, unit, definition, source.
        axes: the outermost first; none for a single number.
        values: the numbers, the last axis fastest; None where nothing was measured, such as a task with
            itself.
    """

    name: str
    quantity: Quantity
    axes: tuple[Axis, ...]
    values: tuple[float | None, ...]

    @classmethod
    def of(cls, name: str, quantity: Quantity, measured: Measured) -> Figure:
        """Return the figure of a measured quantity.

        Args:
            name: of the quantity.
            quantity: what it is.
            measured: as a measure gives it; nested as deep as the quantity has axes.

        Raises:
            ValueError: it is nested less deep, or deeper.

        Example:
            >>> pairs = Quantity("example", per="pair", axes=("model of", "examples of"))
            >>> Figure.of("drift", pairs, {"a": {"b": 1.0}, "b": {"a": 2.0}}).values
            (None, 1.0, 2.0, None)
        """
        numbers = dict(numbers_of(measured))
        if any(len(key) != len(quantity.axes) for key in numbers):
            raise ValueError(f"{name}: is not nested as its axes {quantity.axes} say")
        ticks = [tuple(dict.fromkeys(key[level] for key in numbers)) for level in range(len(quantity.axes))]
        for level in range(1, len(ticks)):  # a pair's second axis has the order of its first
            if set(ticks[level]) == set(ticks[0]):
                ticks[level] = ticks[0]
        axes = tuple(Axis(*pair) for pair in zip(quantity.axes, ticks, strict=True))
        return cls(name, quantity, axes, tuple(numbers.get(key) for key in itertools.product(*ticks)))


@dataclass(frozen=True)
class Passes:
    """What a measure takes at most, of all tasks together, in passes over one task's examples.

    Args:
        forward: passes forward without gradients.
        backward: passes forward and backward, each about as long as three forward.
        merges: merges of task vectors.

    Example:
        >>> (Passes(forward=2) + Passes(backward=3)).forwards
        11.0
    """

    forward: float = 0.0
    backward: float = 0.0
    merges: float = 0.0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward, self.backward + other.backward, self.merges + other.merges
        )

    @property
    def forwards(self) -> float:
        """All passes, in forward passes."""
        return self.forward + 3 * self.backward


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
        needs: "weights": a `WeightMeasure`, which reads task vectors; "loss": a `LossMeasure`, which moves
            the weights of one model and evaluates its loss; "functions": a `FunctionMeasure`, which compares
            what models give for examples; "merge": the same, of models that a merge method makes.
        standard: whether it belongs to those on which a verdict before a merge rests.
    """

    needs: ClassVar[Needs]
    standard: ClassVar[bool] = False

    @property
    @abstractmethod
    def quantities(self) -> Mapping[str, Quantity]:
        """Name -> what the number of this name is. Tables print it by this name."""

    @property
    def of_merge(self) -> bool:
        """Whether a merge of the models is made for it."""
        return self.needs == "merge"

    @property
    def variants(self) -> Mapping[str, Quantity]:
        """Name -> what is told of its quantities besides: trimmed, of each layer."""
        return {}

    def cost(self, tasks: int) -> Passes:
        """Return the passes that it takes at most, of this many tasks together; none of examples here."""
        return Passes()


def quantities_of(measures: Iterable[Measure]) -> dict[str, Quantity]:
    """Return what the numbers of several measures are, by name.

    Args:
        measures: any, of weights or of the loss.
    """
    return {name: quantity for measure in measures for name, quantity in measure.quantities.items()}


MEASURES: Registry[type[Measure]] = Registry(Measure, "measure", "saft.interference")
