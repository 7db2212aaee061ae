"""What a merge method is: its parameters, the statistics that it asks for, and a function of a block."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from saft.errors import UserError, did_you_mean
from saft.merging.parameters import ParameterInfo, as_held, own_fields_first, parameter, range_of, validate
from saft.merging.stream.block import Block

__all__ = [
    "NO_WEIGHT",
    "Elementwise",
    "Extremes",
    "Method",
    "OrderStatistics",
    "Scope",
    "ParameterInfo",
    "Statistic",
    "Steps",
    "Sums",
    "Tensorwise",
    "Trimming",
    "for_each_task",
    "in_rows",
    "last_dropped",
    "magnitudes",
    "parameter",
    "total",
]

M = TypeVar("M", bound="Method")

Scope = Literal["model", "tensor", "none"]

NO_WEIGHT = "weights: are all zero; give at least one model a weight that is not"


# Statistics: what a method may ask about the whole stream. `values` maps a block to float32 [rows, n].


@dataclass(frozen=True)
class OrderStatistics:
    """Asks for the values at `ranks` (from 0) of each row in ascending order, to the bit: [rows, ranks].

    Args:
        values: maps a block to float32 [rows, n].
        ranks: positions in ascending order, from 0.
    """

    values: Callable[[Block], Tensor]
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Extremes:
    """Asks for the least and the greatest value of each row: [rows, 2].

    Args:
        values: maps a block to float32 [rows, n].
    """

    values: Callable[[Block], Tensor]


@dataclass(frozen=True)
class Sums:
    """Asks for the sum of each row, added up in float64: [rows, 1].

    Args:
        values: maps a block to float32 [rows, n].
    """

    values: Callable[[Block], Tensor]


Statistic = OrderStatistics | Extremes | Sums
Steps = Generator[Statistic, Tensor, Callable[[Block], Tensor]]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A merge method: a frozen dataclass whose fields are its parameters, declared with `parameter`.

    The first line of its docstring says what it does; the class attributes say the rest.
    """

    formula: ClassVar[str]
    """The equation: θ0 the base, τₜ the task vectors, K their number, λ the scaling coefficient."""
    card_template: ClassVar[str]
    """The same for a model card; `{name}` stands for a parameter's value."""
    source: ClassVar[str]
    """The paper."""
    deviations: ClassVar[str] = "none"
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
    ordered: ClassVar[bool] = False
    """Whether the order of the models counts."""
    calibration: ClassVar[str] = ""
    """What has to be collected from data before, if anything; it arrives as `Block.statistics`."""
    needs_adapters: ClassVar[bool] = False
    """Whether the models must be LoRA adapters of the base; their matrices arrive as `Block.factors`."""
    min_models: ClassVar[int] = 1
    """Least number of models."""
    max_models: ClassVar[float] = math.inf
    """Greatest number of models."""

    def __post_init__(self) -> None:
        problems = [text for item in fields(self) if (text := validate(item, getattr(self, item.name)))]
        if problems:
            raise UserError(*problems)
        for item in fields(self):
            object.__setattr__(self, item.name, as_held(item, getattr(self, item.name)))

    @classmethod
    def build(cls: type[M], parameters: Mapping[str, Any]) -> M:
        """Return the method with `parameters`; every unknown name and wrong value is reported at once.

        Args:
            parameters: name -> value; those that are not given have their defaults.

        Raises:
            UserError: with one message for each.
        """
        known = {item.name: item for item in fields(cls)}
        problems = []
        for name, value in parameters.items():
            if name not in known:
                problems.append(f"unknown parameter '{name}'" + did_you_mean(name, known))
            elif text := validate(known[name], value):
                problems.append(text)
        if problems:
            raise UserError(*problems)
        return cls(**parameters)

    @classmethod
    def parameter_infos(cls) -> list[ParameterInfo]:
        """Return every parameter with its type, default, range and description."""
        return [
            ParameterInfo(
                item.name, type(item.default).__name__, item.default, range_of(item), item.metadata["help"]
            )
            for item in own_fields_first(cls)
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
        return {item.name: getattr(self, item.name) for item in own_fields_first(type(self))}

    def describe(self) -> str:
        """Return what is done, with the parameters' values."""
        in_words = {
            name: ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
            for name, value in self.parameters().items()
        }
        return self.card_template.format(**in_words)

    def problems(self, tasks: int) -> list[str]:
        """Return what is wrong with merging this number of tasks.

        Args:
            tasks: number of models.
        """
        problems = []
        if not self.min_models <= tasks <= self.max_models:
            more = "" if self.max_models == self.min_models else " or more"
            wanted = f"{self.min_models}{more}"
            problems.append(f"models: this method merges {wanted}, but there are {tasks}")
        for item in fields(self):
            given = getattr(self, item.name)
            if isinstance(item.default, tuple) and len(given) not in (len(item.default), tasks):
                one_for_all = " or one for all," if item.default else ""
                problems.append(
                    f"{item.name}: has {len(given)} numbers, but there are {tasks} models; "
                    f"give one for each, in their order,{one_for_all} or leave it out"
                )
            elif item.name == "weights" and given and not any(given):
                problems.append(NO_WEIGHT)
        return problems

    @property
    def statistics_over(self) -> Scope:
        """What the statistics that `steps` asks for are taken over; "none" where it asks for none.

        Over the whole model, the parameters cannot differ from tensor to tensor.
        """
        return "none"

    def wanted(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names of the tensors that are worked on; what is not named stays as in the base.

        Args:
            shapes: name of each tensor of the model -> its shape.
        """
        return list(shapes)

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
    """A method that needs a whole tensor at once, in its shape: its blocks are [n_tasks, *shape]."""


@dataclass(frozen=True, kw_only=True)
class Trimming(Elementwise):
    """An elementwise method whose statistics may be taken over the whole model or over each tensor."""

    granularity: Literal["model", "tensor"] = parameter(
        "model",
        "what a statistic is taken over: the whole model, as in the papers, or each tensor, as in mergekit",
        choices=("model", "tensor"),
    )

    @property
    def statistics_over(self) -> Scope:
        """The granularity."""
        return self.granularity


def in_rows(tensors: Tensor, within: str) -> Tensor:
    """Return a tensor of each task as rows: [n_tasks, rows, n].

    Args:
        tensors: [n_tasks, *shape].
        within: "row" for the rows of a matrix, one row for each index of the first dimension, one for a
            vector; "tensor" for one row with everything.

    Example:
        >>> in_rows(torch.zeros(2, 3, 4), "row").shape, in_rows(torch.zeros(2, 3, 4), "tensor").shape
        (torch.Size([2, 3, 4]), torch.Size([2, 1, 12]))
    """
    if within == "row" and tensors.ndim > 2:
        return tensors.flatten(2)
    return tensors.reshape(len(tensors), 1, -1)


def last_dropped(count: int, density: float) -> int:
    """Return the rank, from 0 in ascending order of magnitude, of the entry that a trim to `density` cuts at.

    What is at least as large stays. This is the authors' rule: with k = N − int(N · density) the k-th
    smallest is the threshold, and stays too. At density 1 everything stays.

    Args:
        count: N, number of entries.
        density: fraction that is kept, in (0, 1].

    Example:
        >>> last_dropped(10, density=0.2)
        7
    """
    return max(count - int(count * density) - 1, 0)


def magnitudes(block: Block) -> Tensor:
    """Return the magnitudes of the task vectors, float32 [n_tasks, n]."""
    return block.task_vectors.flatten(1).abs()


def for_each_task(numbers: Sequence[float], tasks: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a parameter's number for each task, or its one number for all: [n_tasks, 1].

    A method multiplies by it in the dtype of its block: to lose nothing there, it takes float64 here.

    Args:
        numbers: one for each task, or one for all.
        tasks: number of tasks.
        dtype: of the result.

    Example:
        >>> for_each_task([0.5], tasks=2)
        tensor([[0.5000],
                [0.5000]])
    """
    column = torch.tensor(numbers, dtype=dtype).unsqueeze(1)
    return column.expand(tasks, 1) if len(numbers) == 1 else column


def total(rows: Tensor) -> Tensor:
    """Return the sum over the first dimension, added up from the first row to the last.

    The order is visible where the sum nearly cancels: it decides the sign that TIES elects.

    Args:
        rows: [n_tasks, n].

    Returns:
        [n].

    Example:
        >>> total(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([4., 6.])
    """
    if len(rows) == 1:
        return rows[0].clone()
    first, second, *others = rows.unbind()
    result = first + second
    for row in others:
        result += row
    return result
