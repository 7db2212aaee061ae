"""What a number, a name or a list of a config may be: types for the fields of its dataclass.

    @config.checked
    @dataclass(frozen=True)
    class TrainConfig:
        steps: Count
        density: Fraction = 0.2
        train_examples: Count | None = None
        merges: dict[Name, MergeOptions] = field(default_factory=dict)
        seeds: Seeds = field(default_factory=lambda: [0])

They are checked both when a file is parsed and when a `checked` dataclass is constructed in Python.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from saft.errors import UserError

__all__ = [
    "Count",
    "CountOrZero",
    "FiniteFloat",
    "Fraction",
    "FractionOrZero",
    "Location",
    "Name",
    "Named",
    "NonNegative",
    "OpenFraction",
    "Positive",
    "Range",
    "Repository",
    "Seed",
    "Seeds",
    "Target",
    "counted",
    "distinct",
    "name_problem",
    "plain",
    "within_floats",
]

S = TypeVar("S", bound=Sequence[Any])

# Nothing that is counted here comes near; a slip of the keyboard does.
MOST = 10**9


@dataclass(frozen=True)
class Range:
    """The numbers that are allowed: finite ones between two ends, or whole ones.

    `Annotated[float, Range(above=0)]` is a type for the field of a config.

    Args:
        whole: whether only whole numbers are meant. Numbers like 1e3 are whole.
        above, at_least: the lower end, without or with it.
        below, at_most: the upper end, without or with it; for whole numbers at_most.

    Example:
        >>> print(Range(above=0, at_most=1))
        (0, 1]
        >>> Range(above=0, at_most=1).problem(20)
        'must be in (0, 1], but is 20; it is a fraction, not percent: write 0.2'
        >>> Range(whole=True, at_least=1).problem(0)
        'must be at least 1, but is 0'
        >>> Range().problem(True)
        'must be a number, but is True'
        >>> Range(above=0).problem(float("nan"))
        'must be a finite number above 0, but is nan'
    """

    whole: bool = False
    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf

    @property
    def low(self) -> float:
        """The lower end, whether it is allowed or not."""
        return max(self.above, self.at_least)

    @property
    def high(self) -> float:
        """The upper end, whether it is allowed or not."""
        return min(self.below, self.at_most)

    def __str__(self) -> str:
        opening = "[" if self.at_least > self.above else "("
        closing = "]" if self.at_most < self.below else ")"
        return f"{opening}{self.low:g}, {self.high:g}{closing}"

    def __contains__(self, value: float) -> bool:
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    @property
    def words(self) -> str:
        """What is allowed, in words: "whole number of at least 1", "number in (0, 1]"."""
        return f"{'whole number' if self.whole else 'number'} {self._which()}".strip()

    def problem(self, value: object) -> str | None:
        """Return what is wrong with a value, as the end of a sentence that begins with its place, or None."""
        value = plain(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"must be a {self.words}, but is {value!r}"
        if not abs(value) <= sys.float_info.max:
            return f"must be a finite {self.words}, but is {value}"
        if self.whole and value != int(value):
            return f"must be a {self.words}, but is {value}"
        if value in self:
            return None
        if self.whole and value >= self.high:
            return f"must be at most {int(self.high)}, but is {value}"
        percent = self.high == 1 and 1 < value <= 100
        cure = f"; it is a fraction, not percent: write {value / 100:g}" if percent else ""
        return f"must be {self._which().removeprefix('of ')}, but is {value}{cure}"

    def _which(self) -> str:
        """Return the range in words, to be put behind "a number"."""
        if math.isfinite(self.low) and (self.whole or self.high == math.inf):
            return f"of at least {self.low:g}" if self.at_least > self.above else f"above {self.low:g}"
        return f"in {self}" if math.isfinite(self.low) or math.isfinite(self.high) else ""

    def read(self, value: object) -> float:
        """Return the number that is meant by a value of a config, where `'1e-5'` is one too.

        Raises:
            ValueError: there is none, or it is out of range.
        """
        number = _number(value) if isinstance(value, str) else plain(value)
        if problem := self.problem(number):
            raise ValueError(problem)
        assert isinstance(number, (int, float))
        return int(number) if self.whole else float(number)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)


def plain(value: object) -> Any:
    """Return a number of NumPy, or of another library, as one of Python's, and anything else as it is.

    Example:
        >>> import numpy
        >>> plain(numpy.float32(0.5)), plain(numpy.int64(3)), plain("0.5")
        (0.5, 3, '0.5')
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def within_floats(number: int, text: str) -> int:
    """Return a whole number that a float can hold, as whoever computes with it will want it to.

    Args:
        number: as read from a file.
        text: as the file has it.

    Raises:
        ValueError: it is too large.

    Example:
        >>> within_floats(10**400, "1" + 400 * "0")
        Traceback (most recent call last):
        ValueError: 10000000000000000000... is too large a number
    """
    if abs(number) > sys.float_info.max:
        raise ValueError(f"{text:.20}... is too large a number")
    return number


def _number(text: str) -> float | str:
    """Return the number that a text spells, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


Count = Annotated[int, Range(whole=True, at_least=1, at_most=MOST)]
CountOrZero = Annotated[int, Range(whole=True, at_least=0, at_most=MOST)]
Seed = Annotated[int, Range(whole=True, at_least=0, at_most=2**32 - 1)]  # numpy's range, and so Lightning's
Fraction = Annotated[float, Range(above=0, at_most=1)]
FractionOrZero = Annotated[float, Range(at_least=0, at_most=1)]
OpenFraction = Annotated[float, Range(above=0, below=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
FiniteFloat = Annotated[float, Range()]


def counted(what: str, value: object) -> int:
    """Return an argument of a function, given in Python, that counts something: at least 1.

    Args:
        what: its name, for the message.
        value: as it was given.

    Raises:
        UserError: it is not such a number.

    Example:
        >>> counted("rank", 0)
        Traceback (most recent call last):
        saft.errors.UserError: rank: must be at least 1, but is 0
    """
    allowed = Range(whole=True, at_least=1, at_most=MOST)
    if problem := allowed.problem(value):
        raise UserError(f"{what}: {problem}")
    return int(allowed.read(value))


def name_problem(text: str) -> str | None:
    """Return what is wrong with a name that files are called by, or None."""
    if re.fullmatch(r"[\w-][\w.-]*", text) and len(text.encode()) <= 100:
        return None
    return (
        f"'{text}' cannot be a name, since files are called by it: "
        "write letters, digits, '_', '-' and '.', with no '.' at the beginning, at most 100 bytes of them"
    )


def _name(text: str) -> str:
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


Name = Annotated[str, AfterValidator(_name)]


def _location(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write a path")
    return text


# An empty text would stand for the folder that one is in.
Location = Annotated[str, AfterValidator(_location)]


def _target(text: str) -> str:
    """Return a path to write to: no shell makes `~` the home folder in `--out=~/runs`, and so we do."""
    return os.path.expanduser(_location(text))


Target = Annotated[str, AfterValidator(_target)]


def _repository(text: str) -> str:
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    if not re.fullmatch(f"{name}/{name}", text) or ".." in text or "--" in text:
        raise ValueError(f"must be a repository of the hub, OWNER/NAME, but is '{text}'")
    return text


Repository = Annotated[str, AfterValidator(_repository)]


def _with_name(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"must be a mapping; write {{name: {value}}}")
    return value


Named = Annotated[dict[str, Any], BeforeValidator(_with_name)]
"""`name` of something that is registered, or is elsewhere as `module:Name`, and its options."""


def distinct(values: S) -> S:
    """Return a sequence that is not empty and holds nothing twice.

    `Annotated[list[Name], AfterValidator(distinct)]` is a type for the field of a config.

    Raises:
        ValueError: it is empty, or holds something twice.

    Example:
        >>> distinct([0, 0])
        Traceback (most recent call last):
        ValueError: holds 0 twice; write it once
    """
    if not values:
        raise ValueError("must not be empty")
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"holds {value!r} twice; write it once")
        seen.add(value)
    return values


Seeds = Annotated[list[Seed], AfterValidator(distinct)]
