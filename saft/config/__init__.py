"""YAML and command line -> one typed, frozen dataclass; every mistake named by its place, with a cure."""

from saft.config.description import Key, describe
from saft.config.overrides import differences, overridden
from saft.config.parsing import checked, parse
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
    "Key",
]
