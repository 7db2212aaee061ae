"""Whom a merge, or another model's vector, is said to hurt: harms that are larger than chance makes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any, TypeAlias

from saft.interference.paired_interval import half_width
from saft.interference.quantity import OWN_METRIC, Quantity

__all__ = [
    "SHARE",
    "LeftOut",
    "halves_of_pairs",
    "has_no_mean",
    "hurting_models",
    "hurting_pairs",
    "left_out",
    "worst_first",
]

LeftOut: TypeAlias = "dict[str, tuple[dict[str, float], float, float]]"
"""Model -> task -> what it gains without that model; their mean; half of the mean's interval."""
SHARE = 0.1  # of what fine-tuning gained on a task: a pair that loses more of it is said to hurt


def hurting_models(
    measured: Mapping[str, Any],
    quantities: Mapping[str, Quantity],
    examples: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Return who is said to hurt the merge, worst first -> what the others gain without it, mean over them.

    Args:
        measured: quantity -> value; `harm` and its errors.
        quantities: what each of them is; metrics of several units have no mean, and nobody is said to hurt.
        examples: task -> number of those that it was measured on; None takes them for many.

    Example:
        >>> harm = {"a": {"b": 0.2}, "b": {"a": -0.1}}
        >>> what = {"harm": Quantity("example", "%", per="pair")}
        >>> hurting_models({"harm": harm, "harm_error": {"a": {"b": 0.05}, "b": {"a": 0.05}}}, what)
        {'a': 0.2}
    """
    return worst_first(left_out(measured, examples or {}), quantities)


def worst_first(known: LeftOut, quantities: Mapping[str, Quantity]) -> dict[str, float]:
    """Return what `hurting_models` does, of what `left_out` has found.

    Args:
        known: from `left_out`.
        quantities: what each quantity is.
    """
    if has_no_mean(known, quantities):
        return {}
    hurting = {j: mean for j, (_, mean, half) in known.items() if mean > max(half, 0.0)}
    return dict(sorted(hurting.items(), key=lambda item: -item[1]))


def hurting_pairs(
    measured: Mapping[str, Any], examples: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Return who is said to lose by whom: pairs of a task and the model whose vector hurts it.

    A loss counts that is larger than chance makes it (see `verdict`) and than `SHARE` of what fine-tuning
    gained on the task.

    Args:
        measured: quantity -> value; `pair_harm`, its errors, and what is there of scores.
        examples: task -> number of those that it was measured on; None takes them for many.

    Example:
        >>> error = {"a": {"b": 0.05}, "b": {"a": 0.05}}
        >>> hurting_pairs({"pair_harm": {"a": {"b": 0.2}, "b": {"a": -0.1}}, "pair_harm_error": error})
        [('a', 'b')]
    """
    gains, halves = _gains(measured), halves_of_pairs(measured, examples or {})
    return [
        (task, other)
        for task, row in measured.get("pair_harm", {}).items()
        for other, loss in row.items()
        if loss > halves[task, other] and loss > SHARE * gains.get(task, 0.0)
    ]


def left_out(measured: Mapping[str, Any], examples: Mapping[str, int]) -> LeftOut:
    """Return model -> task -> its gain without it, where finite; their mean; half of the mean's interval.

    Args:
        measured: quantity -> value; `harm` and its errors.
        examples: task -> number of those that it was measured on.
    """
    known = {}
    for j, row in measured.get("harm", {}).items():
        finite = {task: change for task, change in row.items() if math.isfinite(change)}
        if finite:
            half = _half(_errors(measured, "harm", j), finite, examples, len(measured["harm"]))
            known[j] = finite, round(fmean(finite.values()), 12), half
    return known


def has_no_mean(harms: LeftOut, quantities: Mapping[str, Quantity]) -> bool:
    """Return whether the tasks' metrics have several units, so that their gains have no mean.

    Args:
        harms: as `left_out` returns them.
        quantities: what each quantity is.
    """
    several = any(len(row) > 1 for row, _, _ in harms.values())
    return several and quantities["harm"].unit == OWN_METRIC


def halves_of_pairs(measured: Mapping[str, Any], examples: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """Return half the width of the interval of each ordered pair's harm; NaN where its error is not known.

    Args:
        measured: quantity -> value; `pair_harm` and its errors.
        examples: task -> number of those that it was measured on.
    """
    losses = measured.get("pair_harm", {})
    several = sum(map(len, losses.values()))
    return {
        (task, other): _half({task: errors.get(other, math.nan)}, [task], examples, several)
        for task, row in losses.items()
        for errors in [_errors(measured, "pair_harm", task)]
        for other in row
    }


def _half(
    errors: Mapping[str, float], tasks: Collection[str], examples: Mapping[str, int], several: int
) -> float:
    """Return half the width of the interval of a mean over tasks, one of several that hold together.

    Each of m has a share of 1/m of the 5 % (Bonferroni). NaN where an error is not known.
    """
    of_tasks = [errors.get(task, math.nan) for task in tasks]
    return half_width(of_tasks, [examples.get(task, math.inf) for task in tasks], 1 - 0.05 / several)


def _errors(measured: Mapping[str, Any], name: str, row: str) -> Mapping[str, float]:
    errors: Mapping[str, Mapping[str, float]] = measured.get(f"{name}_error", {})
    return errors.get(row, {})


def _gains(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return task -> what fine-tuning gained; which way is better the room tells, where there is any."""
    scores = ("base_score", "expert_score", "merged_score", "room")
    base, expert, merged, room = (measured.get(name, {}) for name in scores)
    gains = {}
    for task in base.keys() & expert.keys():
        change = expert[task] - base[task]
        upward = (expert[task] - merged.get(task, expert[task])) * room.get(task, 0.0)
        gains[task] = math.copysign(change, change * upward) if upward else abs(change)
    return gains
