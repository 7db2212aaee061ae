"""YAML and command line -> one typed, frozen dataclass; every mistake named by its place, with a cure."""

from saft.config.description import Key, describe, in_words
from saft.config.overrides import differences, overridden
from saft.config.parsing import Depth, checked, parse
from saft.config.ranges import (
    Count,
    CountOrZero,
    FiniteFloat,
    Fraction,
    FractionOrZero,
    Location,
    Name,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    Seed,
    Seeds,
    distinct,
)
from saft.config.yaml_files import dump, load, read

__all__ = [
    "checked",
    "describe",
    "differences",
    "dump",
    "in_words",
    "load",
    "overridden",
    "parse",
    "read",
    "Count",
    "CountOrZero",
    "FiniteFloat",
    "Fraction",
    "FractionOrZero",
    "Location",
    "Name",
    "NonNegative",
    "OpenFraction",
    "Positive",
    "Range",
    "Seed",
    "Seeds",
    "distinct",
    "Depth",
    "Key",
]
