"""One model in the space that a base and its task vectors span, and what each task's examples say of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.interference.paired_interval import paired_error
from saft.merging.inputs.factors import Factors

__all__ = ["BASE", "Point", "Probe", "Response", "Scored", "TaskSpace"]


@dataclass(frozen=True)
class Point:
    r"""Weights: :math:`\theta_0 + \sum_t c_t \tau_t + \lambda\, m(\{\tau_s : s \in S\})`.

    Args:
        coefficients: pairs of a task and c_t; a task that is not named has 0.
        merged: S, the tasks whose vectors a merge method m merges; empty for no merge.
        scaling: lambda.

    Example:
        >>> Point.of({"b": 0.5, "a": 0.0}) == Point((("b", 0.5),))
        True
    """

    coefficients: tuple[tuple[str, float], ...] = ()
    merged: tuple[str, ...] = ()
    scaling: float = 0.0

    @classmethod
    def of(cls, coefficients: Mapping[str, float]) -> Point:
        """Return the point with these coefficients; of equal points the same."""
        return cls(tuple(sorted((task, float(c)) for task, c in coefficients.items() if c)))


BASE = Point()


@dataclass(frozen=True)
class Response:
    """What one forward pass over the examples of a task gives.

    Args:
        loss: mean over the examples, in nats where the task is a classification.
        predictions: labels or tokens, integers [n, ...]; of a regression its numbers.
        features: what the head reads, [examples, width].
    """

    loss: float
    predictions: Tensor
    features: Tensor


@dataclass(frozen=True)
class Scored:
    """A task's metric on its examples.

    Args:
        value: the metric.
        error: its standard error, from the finite number of examples; None where it is not known.
        by_example: what each example adds to it, [examples]: of a mean over examples the example's own
            value. Those of two models on the same examples are compared example by example.
    """

    value: float
    error: float | None
    by_example: Tensor


class Probe(Protocol):
    """The examples of one task, the task's model on the shared trunk, and what they give at its weights.

    Attributes:
        higher_is_better: the direction of `score`.
        module: trunk and head; the trunk is the space's own.
        loss: batch -> mean loss over its examples.
        batches: the examples.
    """

    higher_is_better: bool
    module: nn.Module
    loss: Callable[[Any], Tensor]
    batches: Sequence[Any]

    def response(self) -> Response:
        """Pass the examples forward."""

    def score(self) -> Scored:
        """Return the task's metric on the examples."""

    def outputs(self) -> Tensor:
        """Return every output of the head for the first batch, [...], in float32."""

    def layers(self) -> dict[str, Tensor]:
        """Return layer -> the mean of its output over the positions of each example, [examples, width]."""


class TaskSpace:
    """One trunk that is moved in place, so that any number of models cost the memory of one.

    Responses and scores are kept by task and point: measures that look at the same place share them.

    Args:
        trunk: float32 or float64, in evaluation mode; its weights are changed.
        base: name of a parameter of the trunk -> its pretrained value.
        experts: task -> name -> fine-tuned value, asked for when it is needed.
        probes: task -> its examples; every task of `experts`.
        merge: tasks -> name -> merged task vector, without lambda; None where nothing is merged.
        scaling: lambda of every merge.
        adapters: task -> name -> the two matrices of its LoRA adapter, of experts that are adapters.

    Attributes:
        parameters: name -> tensor of the trunk, of all that moves: weights, and statistics of batch norms.
        trained: names of those that are weights.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> weights = {"weight": torch.tensor([[1.0]])}
        >>> space = TaskSpace(line, weights, {"a": {"weight": torch.tensor([[3.0]])}}, {})
        >>> space.move(Point.of({"a": 0.5}))
        >>> line.weight.item()
        2.0
    """

    def __init__(
        self,
        trunk: nn.Module,
        base: Mapping[str, Tensor],
        experts: Mapping[str, Mapping[str, Tensor]],
        probes: Mapping[str, Probe],
        merge: Callable[[tuple[str, ...]], Mapping[str, Tensor]] | None = None,
        scaling: float = 1.0,
        adapters: Mapping[str, Mapping[str, Factors]] | None = None,
    ) -> None:
        self.adapters = adapters or {}
        self.trunk, self.base, self.experts, self.probes, self.scaling = trunk, base, experts, probes, scaling
        self.tasks = list(experts)
        state = trunk.state_dict(keep_vars=True)
        self.parameters = {name: tensor.detach() for name, tensor in state.items() if name in base}
        self.trained = [name for name in self.parameters if isinstance(state[name], nn.Parameter)]
        if missing := sorted(base.keys() - self.parameters.keys()):
            raise ValueError(f"the trunk has no parameter '{missing[0]}'")
        self._merge = merge
        self._at: Point | None = None
        self._responses: dict[tuple[str, Point], Response] = {}
        self._scores: dict[tuple[str, Point], Scored] = {}
        self._merged = functools.lru_cache(maxsize=1)(self._merge_of)

    def expert(self, task: str) -> Point:
        """Return the point of a task's own model."""
        return Point.of({task: 1.0})

    def merged(self, tasks: Sequence[str] | None = None) -> Point:
        """Return the point of the merge of some tasks, or of all, at the space's lambda."""
        return Point(merged=tuple(self.tasks if tasks is None else tasks), scaling=self.scaling)

    def move(self, point: Point) -> None:
        """Set the trunk to a point; to the base and to an expert to the bit."""
        if point == self._at:
            return
        self._at = None  # in case that the move is interrupted
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self._set(name, parameter, point)
        self._at = point

    def task_vector(self, task: str) -> dict[str, Tensor]:
        """Return name -> fine-tuned minus base weights, in the dtype and on the device of the trunk.

        Args:
            task: one of `experts`.

        Returns:
            Name -> difference, in the shape, dtype and device of the trunk's parameter.
        """
        return {
            name: self.experts[task][name].to(parameter) - self.base[name].to(parameter)
            for name, parameter in self.parameters.items()
        }

    def response(self, task: str, point: Point) -> Response:
        """Return what the examples of a task give at a point."""
        if (task, point) not in self._responses:
            self.move(point)
            self._responses[task, point] = self.probes[task].response()
        return self._responses[task, point]

    def score(self, task: str, point: Point) -> float:
        """Return the task's metric at a point."""
        return self._scored(task, point).value

    def score_error(self, task: str, point: Point) -> float | None:
        """Return the standard error of that score, from the finite number of examples."""
        return self._scored(task, point).error

    def paired_error(self, task: str, point: Point, other: Point) -> float:
        """Return the standard error of the difference of two scores, which are of the same examples.

        What makes an example easy or hard moves both models alike, so that it is smaller than the error of
        two scores of different examples; see `saft.interference.paired_interval.paired_error`.

        Args:
            task: one of `probes`.
            point: of the one score.
            other: of the other.

        Returns:
            NaN where it is not known, as of a single example.
        """
        return paired_error(self._scored(task, point).by_example, self._scored(task, other).by_example)

    def layers(self, task: str, point: Point) -> dict[str, Tensor]:
        """Return what every layer gives for the examples of a task at a point.

        Args:
            task: one of `probes`.
            point: where the trunk is moved.

        Returns:
            Layer -> [examples, width]; see `Probe.layers`.
        """
        self.move(point)
        return self.probes[task].layers()

    def shifted(self, task: str, point: Point, shift: Mapping[str, Tensor]) -> Response:
        """Return what the examples of a task give at a point with something added to the weights.

        Args:
            task: one of `probes`.
            point: where the trunk is moved first.
            shift: name of a parameter -> what is added, in its shape.
        """
        self.move(point)
        self._at = None
        with torch.no_grad():
            for name, part in shift.items():
                self.parameters[name].add_(part.to(self.parameters[name]))
        return self.probes[task].response()

    def moved_by_hand(self, weights: Mapping[str, Tensor]) -> None:
        """Set parameters to any weights; the next move goes back to the space.

        Args:
            weights: name of a parameter -> its value, in its shape.
        """
        self._at = None
        with torch.no_grad():
            for name, value in weights.items():
                self.parameters[name].copy_(value)

    def better(self, task: str, value: float, other: float) -> float:
        """Return by how much a score of a task is better than another, in the metric's own size.

        Args:
            task: one of `probes`, whose metric says which way is better.
            value: the score.
            other: the score that it is compared with.
        """
        return value - other if self.probes[task].higher_is_better else other - value

    def _scored(self, task: str, point: Point) -> Scored:
        if (task, point) not in self._scores:
            self.move(point)
            self._scores[task, point] = self.probes[task].score()
        return self._scores[task, point]

    def _set(self, name: str, parameter: Tensor, point: Point) -> None:
        """Set one parameter, in place: grids of points take longer to move to than anything that is held."""
        base = self.base[name].to(parameter)
        (task, first), *others = point.coefficients or (("", 0.0),)
        if first:
            torch.lerp(base, self.experts[task][name].to(base), first, out=parameter)
        else:
            parameter.copy_(base)
        for task, coefficient in others:
            parameter.add_(self.experts[task][name].to(base), alpha=coefficient)
            parameter.sub_(base, alpha=coefficient)
        if point.merged and (vector := self._merged(point.merged).get(name)) is not None:
            parameter.add_(vector.to(base), alpha=point.scaling)

    def _merge_of(self, tasks: tuple[str, ...]) -> Mapping[str, Tensor]:
        if self._merge is None:
            raise UserError("measures: one of these needs a merge: give `merge: {method: ...}`")
        return self._merge(tasks)
