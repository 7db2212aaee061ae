"""YAML and command line -> one typed, frozen dataclass; every mistake named by its place, with a cure."""

from saft.config import ranges
from saft.config.description import Key, describe, in_words
from saft.config.overrides import differences, overridden
from saft.config.parsing import Depth, as_config, checked, parse
from saft.config.ranges import *  # noqa: F403 - the types of a config's fields, all of them
from saft.config.registered import make_registered
from saft.config.yaml_files import dump, load, read

__all__ = [
    "Depth",
    "Key",
    "as_config",
    "checked",
    "describe",
    "differences",
    "dump",
    "in_words",
    "load",
    "make_registered",
    "overridden",
    "parse",
    "read",
]
__all__ += ranges.__all__
