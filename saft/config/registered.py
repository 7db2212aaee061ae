"""A name and options of a config -> the registered thing that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from saft.config.parsing import parse
from saft.errors import UserError
from saft.registry import Registry

__all__ = ["make_registered"]

T = TypeVar("T")


def make_registered(registry: Registry[type[T]], name: str, options: Mapping[str, Any], where: str) -> T:
    """Return the thing of a registry that has a name, made with some of its options.

    Args:
        registry: of dataclasses.
        name: one of `registry.names()`, or `module:Name`.
        options: its fields; those that are left out have their defaults.
        where: begins every message: the dotted place in the config.

    Raises:
        UserError: unknown name or option, or a value out of range.

    Example:
        >>> from saft.trajectory import AVERAGINGS
        >>> make_registered(AVERAGINGS, "ema", {"decay": 0.5}, "averaging")
        EMA(decay=0.5)
    """
    try:
        kind = registry.get(name)
    except UserError as error:
        raise UserError(f"{where}: name: {error}") from None
    return parse(kind, options, where)
