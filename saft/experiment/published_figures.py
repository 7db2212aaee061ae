"""Published figures that a config expects, and what keeps one from ever coming out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from saft import config as configs
from saft.config import FiniteFloat, NonNegative
from saft.errors import UserError, did_you_mean
from saft.tasks.metric import Metric

__all__ = ["Expected", "refuse_mixed_units", "unknown_methods", "unknown_names"]


@configs.checked
@dataclass(frozen=True)
class Expected:
    """A published figure, which the report sets beside the one that comes out."""

    of: str
    """base, experts, or a merge method with its shared coefficient."""
    value: FiniteFloat
    """On the test split, in the unit that reports print: percent for accuracies."""
    tolerance: NonNegative
    """How far the figure that comes out may be from it."""
    source: str
    """Where it was published."""
    arm: str | None = None
    """Of which arm; null is the first."""
    task: str | None = None
    """Of which task; null is the mean over all."""
    comparable: bool = True
    """false: the report says of neither that it is met nor that it is not, as in a dry run."""


def unknown_names(
    expected: Mapping[str, Expected], tasks: Collection[str], arms: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong where a figure is of a task or an arm that is not there.

    Args:
        expected: name -> figure.
        tasks: names of the tasks, those held out among them.
        arms: names of the arms.
    """
    for name, figure in expected.items():
        for key, given, known in (("task", figure.task, tasks), ("arm", figure.arm, arms)):
            if given is not None and given not in known:
                yield f"expected.{name}.{key}: there is no {key} '{given}'{did_you_mean(given, known)}"


def unknown_methods(expected: Mapping[str, Expected], methods: Collection[str]) -> Iterator[str]:
    """Yield what is wrong where a figure is of what is no method, and could never come out.

    One of a method that is not among `merges` is told as not run: it may be left out of a recipe's.

    Args:
        expected: name -> figure.
        methods: those that there are.
    """
    known = {"base", "experts", *methods}
    for name, figure in expected.items():
        if figure.of not in known:
            hint = did_you_mean(figure.of, known)
            yield f"expected.{name}.of: '{figure.of}' is not base, experts or a merge method{hint}"


def refuse_mixed_units(expected: Mapping[str, Expected], metrics: Mapping[str, Metric]) -> None:
    """Refuse a figure that is the mean over tasks of several units, which says nothing.

    Args:
        expected: name -> figure.
        metrics: task -> what its scores are.

    Raises:
        UserError: there is one; the message names a task of each unit.

    Example:
        >>> metrics = {"news": Metric("accuracy", "%"), "web": Metric("loss", "nats", False, 1)}
        >>> refuse_mixed_units({"average": Expected("average", 66.5, 0.5, "a paper")}, metrics)
        Traceback (most recent call last):
        saft.errors.UserError: expected.average: is the mean over tasks of several units (news: accuracy, ...
    """
    of_units = {metric.unit or metric.name: f"{task}: {metric.name}" for task, metric in metrics.items()}
    problems = [
        f"expected.{name}: is the mean over tasks of several units ({', '.join(of_units.values())}), which "
        "says nothing; name one with `task`"
        for name, figure in expected.items()
        if figure.task is None and len(of_units) > 1
    ]
    if problems:
        raise UserError(*problems)
