"""Parameters that differ from tensor to tensor, in mergekit's notation: gradients and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from saft.errors import UserError, did_you_mean
from saft.merging.inputs.tensor_names import depth_in_stack
from saft.merging.method import Method

__all__ = ["is_constant", "methods_by_tensor", "setting_problem", "value_at"]

LAYER = r"(?:^|\.)(\d+)\."  # the first number that stands by itself in a name, as mergekit counts


def methods_by_tensor(method: Method, varying: Mapping[str, Any], names: Sequence[str]) -> dict[str, Method]:
    """Return the method of each tensor.

    Args:
        method: with the parameters that all tensors have.
        varying: parameter -> setting; of a parameter with a number for each model, a list of settings.
        names: of the tensors.

    Raises:
        UserError: a parameter is unknown, a setting is none, has no value for a tensor, or a wrong one.
    """
    kind, known = type(method), {item.name: item for item in fields(method)}
    problems = [
        f"varying: unknown parameter '{n}'" + did_you_mean(n, known) for n in varying if n not in known
    ]
    if problem := _statistics_problem(method):
        problems.append(f"varying: {problem}")
    per_model = {name for name, item in known.items() if isinstance(item.default, tuple)}
    for name, setting in varying.items():
        several = name in per_model
        if several and not isinstance(setting, list):
            problems.append(f"varying.{name}: must be a list with a setting for each model")
            continue
        problems_of_each = [setting_problem(one) for one in (setting if several else [setting])]
        problems += [f"varying.{name}: {problem}" for problem in problems_of_each if problem]
    if problems:
        raise UserError(*problems)
    # What is in no layer is at 0, what is in a single layer at 1: so does mergekit.
    depth = dict.fromkeys(names, 0.0) | depth_in_stack(names, LAYER, of_single=1.0)
    result = {}
    wrong: dict[str, list[str]] = {}  # what is wrong -> the tensors
    for name in names:

        def at(setting: Any, name: str = name) -> Any:
            return value_at(setting, name, depth[name])

        given = {
            parameter: [at(one) for one in setting] if parameter in per_model else at(setting)
            for parameter, setting in varying.items()
        }
        try:
            result[name] = kind.build(method.parameters() | given)
            if problem := _statistics_problem(result[name]):  # of a word that varies
                raise UserError(problem)
        except UserError as error:
            for text in error.problems:
                wrong.setdefault(text.partition(", but is ")[0], []).append(f"'{name}': {text}")
    for texts in wrong.values():
        more = f" (and {len(texts) - 1} more tensors)" if len(texts) > 1 else ""
        problems.append(f"varying, at {texts[0]}{more}")
    if problems:
        raise UserError(*problems)
    return result


def _statistics_problem(method: Method) -> str | None:
    """Return why a method cannot be another one at each tensor, or None."""
    if method.statistics_over != "model":
        return None
    cure = "set granularity: tensor" if "granularity" in method.parameters() else "leave `varying` out"
    return f"what this method does to a tensor depends on the whole model's statistics; {cure}"


def value_at(setting: Any, name: str, depth: float) -> Any:
    """Return the value of a setting for a tensor.

    Args:
        setting: a value; a list of numbers, which are spread evenly over the layers and interpolated; or
            a list of {filter: part of a name, value: ...}, of which the first that fits holds (one without
            filter, or with "*", fits all).
        name: of the tensor.
        depth: of its layer, from 0 for the first to 1 for the last.

    Returns:
        The value; None where no filter fits.

    Example:
        >>> value_at([0.0, 1.0, 0.5], "layers.1.mlp.weight", 0.25)
        0.5
        >>> value_at([{"filter": "mlp", "value": 1}, {"value": 2}], "layers.1.attn.weight", 0.25)
        2
    """
    if not isinstance(setting, (list, tuple)):
        return setting
    if any(isinstance(entry, Mapping) for entry in setting):
        fitting = (
            entry["value"]
            for entry in setting
            if entry.get("filter", "*") in ("*", None) or entry["filter"] in name
        )
        return value_at(next(fitting, None), name, depth)
    place = depth * (len(setting) - 1)
    before = int(place)
    share = place - before
    return (1 - share) * setting[before] + share * setting[min(before + 1, len(setting) - 1)]


def setting_problem(setting: Any, inner: bool = False) -> str | None:
    """Return what is wrong with a setting's form, or None; the range of its values is not looked at."""
    if not isinstance(setting, (list, tuple)):
        return "must be a value" if isinstance(setting, Mapping) or setting is None else None
    if not setting:
        return "is an empty list"
    if all(isinstance(entry, (int, float)) for entry in setting):
        return None
    if inner or not all(isinstance(entry, Mapping) for entry in setting):
        return f"must be a list of numbers, or of filter and value, but is {setting!r}"
    for entry in setting:
        unknown = [str(key) for key in entry if key not in ("filter", "value")]
        if unknown:
            return f"unknown key '{unknown[0]}'" + did_you_mean(unknown[0], ["filter", "value"])
        if not isinstance(entry.get("filter", ""), (str, type(None))):
            return f"filter must be a part of a tensor's name, but is {entry['filter']!r}"
        if "value" not in entry:
            return f"has no value for the filter {entry.get('filter')!r}"
        if problem := setting_problem(entry["value"], inner=True):
            return problem
    return None


def is_constant(setting: Any) -> bool:
    """Return whether a setting is the same for all tensors."""
    return not isinstance(setting, (list, tuple))
