"""Which measures are made: names, groups of names and options -> measures that are ready."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from saft import config as configs
from saft.errors import UserError, did_you_mean
from saft.interference.quantity import MEASURES, Measure

__all__ = ["GROUPS", "chosen"]

GROUPS = {
    "standard": "what a verdict before a merge rests on, in few passes",
    "all": "everything that is registered",
}


def chosen(entries: Sequence[str | Mapping[str, Any]], where: str, **common: Any) -> dict[str, Measure]:
    """Return name -> measure, in the order of the entries, each with its options.

    Args:
        entries: names, of measures or of `GROUPS`, or `module:Name`; or {name: ..., option: ...}. An entry
            with options takes the place of the same name in a group.
        where: the place of the entries in the config, for messages.
        **common: options of every measure that has a field of this name, unless its entry says otherwise;
            None leaves each its default.

    Raises:
        UserError: a name or an option does not exist, or a value is out of range; everything at once.

    Example:
        >>> chosen(["sharpness", {"name": "hessian_trace", "n_samples": 2}], "measures", rho=0.05)
        ... # doctest: +NORMALIZE_WHITESPACE
        {'sharpness': Sharpness(rho=0.05, adaptive=False, n_steps=1),
         'hessian_trace': HessianTrace(n_samples=2, seed=0)}
    """
    wanted: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries):
        options = {} if isinstance(entry, str) else dict(entry)
        name = entry if isinstance(entry, str) else options.pop("name", None)
        if not isinstance(name, str):
            problems.append(f"{where}.{number}.name: is required, but missing")
            continue
        for single in _expanded(name):
            wanted[single] = options or wanted.get(single, {})
    measures = {}
    for name, options in wanted.items():
        try:
            measures[name] = _made(name, options, where, common)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return measures


def _expanded(name: str) -> Iterator[str]:
    if name not in GROUPS:
        yield name
        return
    yield from (single for single, kind in MEASURES.items() if name == "all" or kind.standard)


def _made(name: str, options: Mapping[str, Any], where: str, common: Mapping[str, Any]) -> Measure:
    try:
        kind: Any = MEASURES.get(name)
    except UserError as error:
        names = [*MEASURES.names(), *GROUPS]
        known = ":" in name or name in names
        raise UserError(
            f"{where}: {error}" if known else f"{where}: unknown measure '{name}'{did_you_mean(name, names)}"
        ) from None
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    if wrong := [key for key in options if key not in fields]:
        raise UserError(
            *(f"{where}: {name}: unknown option '{key}'{did_you_mean(key, fields)}" for key in wrong)
        )
    given = {key: value for key, value in common.items() if key in fields and value is not None}
    given |= options
    return cast(Measure, configs.parse(kind, given, where, name) if given else kind())
