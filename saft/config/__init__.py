"""YAML and command line -> one typed, frozen dataclass; every mistake named by its place, with a cure."""

from saft.config.parsing import checked, describe, differences, dump, load, overridden, parse, read
from saft.config.ranges import (
    Count,
    CountOrZero,
    FiniteFloat,
    Fraction,
    FractionOrZero,
    Name,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    Seed,
    Seeds,
    distinct,
)

__all__ = [
    "checked",
    "describe",
    "differences",
    "dump",
    "load",
    "overridden",
    "parse",
    "read",
    "Count",
    "CountOrZero",
    "FiniteFloat",
    "Fraction",
    "FractionOrZero",
    "Name",
    "NonNegative",
    "OpenFraction",
    "Positive",
    "Range",
    "Seed",
    "Seeds",
    "distinct",
]
