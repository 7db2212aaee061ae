"""What a merge method is: its parameters, the statistics that it asks for, and a function of a block."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from saft.errors import UserError, did_you_mean
from saft.merging.block import Block

__all__ = [
    "Elementwise",
    "Extremes",
    "Method",
    "OrderStatistics",
    "ParameterInfo",
    "Statistic",
    "Steps",
    "Sums",
    "Tensorwise",
    "Trimming",
    "for_each_task",
    "last_dropped",
    "magnitudes",
    "parameter",
    "total",
]

M = TypeVar("M", bound="Method")


# Statistics: what a method may ask about the whole stream. `values` maps a block to float32 [rows, n].


@dataclass(frozen=True)
class OrderStatistics:
    """Asks for the values at `ranks` (from 0) of each row in ascending order, to the bit: [rows, ranks]."""

    values: Callable[[Block], Tensor]
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Extremes:
    """Asks for the least and the greatest value of each row: [rows, 2]."""

    values: Callable[[Block], Tensor]


@dataclass(frozen=True)
class Sums:
    """Asks for the sum of each row, added up in float64: [rows, 1]."""

    values: Callable[[Block], Tensor]


Statistic = OrderStatistics | Extremes | Sums
Steps = Generator[Statistic, Tensor, Callable[[Block], Tensor]]


def parameter(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """Declare a parameter of a method: the one place for its default, its range and its description.

    Args:
        default: its value when the user gives none; its type is the parameter's type. A tuple is a list of
            numbers, one for each task, each of them in the range; a tuple of one number is for all tasks.
        help: what it is, for `saft methods`.
        choices: the words that are allowed, for a word.
        above, at_least, at_most, below: the range, for a number.
    """
    low = ("(", above) if above > at_least else ("[", at_least)
    high = (")", below) if below < at_most else ("]", at_most)
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "range": (*low, *high)})


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter as `saft methods` shows it."""

    name: str
    type: str
    default: Any
    range: str
    help: str


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A merge method: a frozen dataclass whose fields are its parameters, declared with `parameter`.

    The first line of its docstring says what it does; the class attributes say the rest.
    """

    formula: ClassVar[str]
    """The equation: θ0 the base, τₜ the task vectors, K their number, λ the scaling coefficient."""
    words: ClassVar[str]
    """The same for a model card; `{name}` stands for a parameter's value."""
    source: ClassVar[str]
    """The paper."""
    differs: ClassVar[str] = "does not differ"
    """Where the numbers differ from those of the source."""
    scaling: ClassVar[float]
    """λ when the user gives none."""
    scaling_grid: ClassVar[tuple[float, ...]]
    """The λ to try on validation data; a single value means that the method has no coefficient."""
    needs: ClassVar[str] = "base, models"
    """What it merges, and from what."""
    gives: ClassVar[str] = "one model"
    """What comes out."""
    random: ClassVar[bool] = False
    """Whether it draws random numbers, by `Block.uniform`."""
    collects: ClassVar[str] = ""
    """What has to be collected from data before, if anything; it arrives as `Block.statistics`."""
    fewest: ClassVar[int] = 1
    """Number of models that it needs."""
    most: ClassVar[float] = math.inf
    """Number of models that it can take."""

    def __post_init__(self) -> None:
        problems = [problem for item in fields(self) if (problem := _problem(item, getattr(self, item.name)))]
        if problems:
            raise UserError(*problems)

    @classmethod
    def build(cls: type[M], parameters: Mapping[str, Any]) -> M:
        """Return the method with `parameters`; every unknown name and wrong value is told at once."""
        known = {item.name: item for item in fields(cls)}
        problems = []
        for name, value in parameters.items():
            if name not in known:
                problems.append(f"unknown parameter '{name}'" + did_you_mean(name, known))
            elif problem := _problem(known[name], value):
                problems.append(problem)
        if problems:
            raise UserError(*problems)
        return cls(**{name: tuple(x) if isinstance(x, list) else x for name, x in parameters.items()})

    @classmethod
    def parameter_infos(cls) -> list[ParameterInfo]:
        """Return every parameter with its type, default, range and description."""
        return [
            ParameterInfo(
                item.name, type(item.default).__name__, item.default, _range(item), item.metadata["help"]
            )
            for item in _own_first(cls)
        ]

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n")[0]

    @classmethod
    def notes(cls) -> str:
        """Return the docstring between its first line and its example."""
        _, _, below = inspect.cleandoc(cls.__doc__ or "").partition("\n")
        text = below.partition("Example:")[0].strip()
        return re.sub(r"(?<=\S)\n(?=\S)", " ", text)  # a paragraph is one line; formulas are indented

    def parameters(self) -> dict[str, Any]:
        """Return the parameters' values."""
        return {item.name: getattr(self, item.name) for item in _own_first(type(self))}

    def in_words(self) -> str:
        """Return what is done, with the parameters' values."""
        in_words = {
            name: ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
            for name, value in self.parameters().items()
        }
        return self.words.format(**in_words)

    def problems(self, tasks: int) -> list[str]:
        """Return what is wrong with merging this number of tasks."""
        problems = []
        if not self.fewest <= tasks <= self.most:
            wanted = f"{self.fewest}" if self.most == self.fewest else f"{self.fewest} or more"
            problems.append(f"models: this method merges {wanted}, but there are {tasks}")
        for item in fields(self):
            given = getattr(self, item.name)
            if isinstance(item.default, tuple) and len(given) not in (len(item.default), tasks):
                one_for_all = " or one for all" if item.default else ""
                problems.append(
                    f"{item.name}: has {len(given)} numbers, but there are {tasks} models; "
                    f"give one for each, in their order,{one_for_all} or leave it out"
                )
        return problems

    @abstractmethod
    def steps(self, tasks: int, count: int) -> Steps:
        """Yield each statistic that is needed, receive its value, and return the merging function.

        Args:
            tasks: number of task vectors.
            count: number of coordinates that the statistics are taken over.

        Yields:
            A statistic; what is sent back is its value for the whole stream.

        Returns:
            A function of a block to the merged task vector: float32 [n], or [*shape] where it takes whole
            tensors. It may not change its input.
        """


class Elementwise(Method):
    """A method that merges every coordinate by itself, once the statistics that it asks for are known.

    Its functions may not depend on where a block begins or ends.
    """


class Tensorwise(Method):
    """A method that needs a whole tensor at once, in its shape: its blocks are [n_tasks, *shape].

    Statistics that it asks for are taken over the whole model.
    """


@dataclass(frozen=True, kw_only=True)
class Trimming(Elementwise):
    """An elementwise method whose statistics may be taken over the whole model or over each tensor."""

    granularity: str = parameter(
        "model",
        "what a statistic is taken over: the whole model, as in the papers, or each tensor, as in mergekit",
        choices=("model", "tensor"),
    )


def last_dropped(count: int, density: float) -> int:
    """Return the rank, from 0 in ascending order of magnitude, of the entry that a trim to `density` cuts at.

    What is at least as large stays. This is the authors' rule: with k = N − int(N · density) the k-th
    smallest is the threshold, and stays too. At density 1 everything stays.
    """
    return max(count - int(count * density) - 1, 0)


def magnitudes(block: Block) -> Tensor:
    """Return the magnitudes of the task vectors, float32 [n_tasks, n]."""
    return block.task_vectors.flatten(1).abs()


def for_each_task(numbers: Sequence[float], tasks: int) -> Tensor:
    """Return a parameter's number for each task, or its one number for all: float32 [n_tasks, 1]."""
    column = torch.tensor(numbers, dtype=torch.float32).unsqueeze(1)
    return column.expand(tasks, 1) if len(numbers) == 1 else column


def total(rows: Tensor) -> Tensor:
    """Return the sum over the first dimension, added up from the first row to the last.

    The order is visible where the sum nearly cancels: it decides the sign that TIES elects.

    Args:
        rows: [n_tasks, n].

    Returns:
        [n].
    """
    result = rows[0].clone()
    for row in rows[1:]:
        result += row
    return result


def _own_first(kind: type[Method]) -> list[Field[Any]]:
    """Return the fields with what a method declares itself before what it inherits."""
    return sorted(fields(kind), key=lambda item: item.name not in kind.__annotations__)


def _problem(item: Field[Any], value: Any) -> str | None:
    """Return what is wrong with a value of a parameter, or None."""
    choices = item.metadata["choices"]
    if choices:
        if not isinstance(value, str) or value not in choices:
            return f"{item.name}: unknown value '{value}'" + did_you_mean(str(value), choices)
        return None
    if isinstance(item.default, tuple):
        if not isinstance(value, (list, tuple)) or any(_not_a_number(x) for x in value):
            return f"{item.name}: must be a list of numbers in {_range(item)}, but is {value!r}"
        wrong = [text for x in value if (text := _outside(item, x))]
        return wrong[0] if wrong else None
    if isinstance(item.default, bool) or isinstance(value, bool):
        return (
            None
            if isinstance(item.default, bool) and isinstance(value, bool)
            else f"{item.name}: must be {_range(item)}, but is {value!r}"
        )
    if not isinstance(value, int if isinstance(item.default, int) else (int, float)):
        return f"{item.name}: must be a number in {_range(item)}, but is {value!r}"
    return _outside(item, value)


def _not_a_number(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, (int, float))


def _outside(item: Field[Any], value: float) -> str | None:
    opening, low, closing, high = item.metadata["range"]
    inside = (low < value if opening == "(" else low <= value) and (
        value < high if closing == ")" else value <= high
    )
    if inside:
        return None
    percent = (
        f"; it is a fraction, not percent: write {value / 100:g}" if high == 1 and 1 < value <= 100 else ""
    )
    return f"{item.name}: must be in {_range(item)}, but is {value}{percent}"


def _range(item: Field[Any]) -> str:
    if item.metadata["choices"]:
        return " | ".join(item.metadata["choices"])
    if isinstance(item.default, bool):
        return "true | false"
    opening, low, closing, high = item.metadata["range"]
    return f"{'(' if low == -math.inf else opening}{low:g}, {high:g}{')' if high == math.inf else closing}"
