"""The parameters of a merge method: declared with their defaults and ranges, checked, and described."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from saft.config.ranges import MOST, Range, plain
from saft.errors import did_you_mean

__all__ = [
    "ParameterInfo",
    "as_held",
    "not_to_be_normalized",
    "of_some_models",
    "own_fields_first",
    "parameter",
    "range_of",
    "validate",
]


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
    whole = isinstance(default, int) and not isinstance(default, bool)
    most = min(at_most, MOST) if whole else at_most
    allowed = Range(whole=whole, above=above, at_least=at_least, below=below, at_most=most)
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "range": allowed})


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter as `saft methods` shows it."""

    name: str
    type: str
    default: Any
    range: str
    help: str


def own_fields_first(kind: type[Any]) -> list[Field[Any]]:
    """Return the fields with what a method declares itself before what it inherits."""
    return sorted(fields(kind), key=lambda item: item.name not in kind.__annotations__)


def validate(item: Field[Any], value: Any) -> str | None:
    """Return what is wrong with a value of a parameter, or None."""
    choices = item.metadata["choices"]
    if choices:
        if not isinstance(value, str) or value not in choices:
            return f"{item.name}: unknown value '{value}'" + did_you_mean(str(value), choices)
        return None
    if isinstance(item.default, bool):
        return None if isinstance(value, bool) else f"{item.name}: must be {range_of(item)}, but is {value!r}"
    allowed: Range = item.metadata["range"]
    if isinstance(item.default, tuple):
        if not isinstance(value, (list, tuple)):
            cure = "" if allowed.problem(value) else f"; write [{value}]"
            return f"{item.name}: must be a list of numbers, but is {value!r}{cure}"
        problem = next((text for number in value if (text := allowed.problem(number))), None)
    else:
        problem = allowed.problem(value)
    return f"{item.name}: {problem}" if problem else None


def as_held(item: Field[Any], value: Any) -> Any:
    """Return a value that is right as a method holds it: a list as a tuple, a whole number as an int.

    Files write 300 as 3e2 too, and numbers that are spread over the layers are floats.
    """
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return int(value) if item.metadata["range"].whole else plain(value)


def of_some_models(kind: type[Any], given: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """Return a method's parameters for some of the models that they were given for.

    Args:
        kind: the class of the method.
        given: name -> value; a list of numbers has one for each of all models, or one for all; one that has
            too few stays as it is, to be refused where the method is checked.
        places: of the models that are left among all, from 0.

    Example:
        >>> from saft.merging.methods.ties import Ties
        >>> of_some_models(Ties, {"density": 0.2, "weights": [1.0, 0.5, 0.7]}, [0, 2])
        {'density': 0.2, 'weights': [1.0, 0.7]}
    """
    each = {item.name for item in fields(kind) if isinstance(item.default, tuple)}
    return {
        name: [value[at] for at in places] if name in each and len(value) > max(1, *places) else value
        for name, value in given.items()
    }


def not_to_be_normalized(weights: Sequence[float]) -> list[str]:
    """Return what is wrong with dividing by the sum of weights: that it is zero, but for rounding.

    Example:
        >>> not_to_be_normalized([0.5, 0.5]), not_to_be_normalized([1, -1])
        ([], ['weights: they add up to zero; change one, or set normalize: false'])
    """
    if weights and abs(math.fsum(weights)) <= 1e-6 * sum(map(abs, weights)):
        return ["weights: they add up to zero; change one, or set normalize: false"]
    return []


def range_of(item: Field[Any]) -> str:
    """Return the values that a parameter can have, for people."""
    if item.metadata["choices"]:
        return " | ".join(item.metadata["choices"])
    if isinstance(item.default, bool):
        return "true | false"
    return str(item.metadata["range"])
