"""The parameters of a merge method: declared with their defaults and ranges, checked, and described."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from saft.errors import did_you_mean

__all__ = ["ParameterInfo", "add_up_to_zero", "in_order", "parameter", "range_of", "wrong_with"]


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


def in_order(kind: type[Any]) -> list[Field[Any]]:
    """Return the fields with what a method declares itself before what it inherits."""
    return sorted(fields(kind), key=lambda item: item.name not in kind.__annotations__)


def wrong_with(item: Field[Any], value: Any) -> str | None:
    """Return what is wrong with a value of a parameter, or None."""
    choices = item.metadata["choices"]
    if choices:
        if not isinstance(value, str) or value not in choices:
            return f"{item.name}: unknown value '{value}'" + did_you_mean(str(value), choices)
        return None
    if isinstance(item.default, tuple):
        if not isinstance(value, (list, tuple)) or any(_not_a_number(x) for x in value):
            cure = "" if _not_a_number(value) else f"; write [{value}]"
            return f"{item.name}: must be a list of numbers in {range_of(item)}, but is {value!r}{cure}"
        wrong = [text for x in value if (text := _outside(item, x))]
        return wrong[0] if wrong else None
    if isinstance(item.default, bool):
        return None if isinstance(value, bool) else f"{item.name}: must be {range_of(item)}, but is {value!r}"
    if _not_a_number(value) or (isinstance(item.default, int) and not isinstance(value, int)):
        whole = "whole " if isinstance(item.default, int) else ""
        return f"{item.name}: must be a {whole}number in {range_of(item)}, but is {value!r}"
    return _outside(item, value)


def add_up_to_zero(numbers: Sequence[float]) -> bool:
    """Tell whether numbers add up to zero, but for rounding."""
    return abs(math.fsum(numbers)) <= 1e-6 * sum(map(abs, numbers))


def _not_a_number(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, (int, float))


def _outside(item: Field[Any], value: float) -> str | None:
    opening, low, closing, high = item.metadata["range"]
    inside = (low < value if opening == "(" else low <= value) and (
        value < high if closing == ")" else value <= high
    )
    if inside and math.isfinite(value):  # a range without an end does not hold its end
        return None
    percent = (
        f"; it is a fraction, not percent: write {value / 100:g}" if high == 1 and 1 < value <= 100 else ""
    )
    return f"{item.name}: must be in {range_of(item)}, but is {value}{percent}"


def range_of(item: Field[Any]) -> str:
    """Return the values that a parameter can have, for people."""
    if item.metadata["choices"]:
        return " | ".join(item.metadata["choices"])
    if isinstance(item.default, bool):
        return "true | false"
    opening, low, closing, high = item.metadata["range"]
    return f"{'(' if low == -math.inf else opening}{low:g}, {high:g}{')' if high == math.inf else closing}"
