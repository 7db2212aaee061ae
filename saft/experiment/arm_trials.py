"""The trials of an arm with `choices`: every combination of its values, or as many as a budget allows."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from saft.errors import UserError

__all__ = [
    "ArmTrial",
    "Value",
    "arm_trials",
    "dotted",
    "drawn",
    "in_random_order",
    "refuse_small_budget",
    "with_values",
    "without_values",
]

Value = str | bool | int | float | None
"""What an option of a training may be chosen from: anything but a mapping or a list."""

MOST = 1000  # combinations of an arm: who writes more has multiplied by mistake


@dataclass(frozen=True)
class ArmTrial:
    """One way to train that an arm may turn out to be.

    Args:
        arm: its name in the config.
        values: option, dotted where it is inside a mapping -> its value; empty for an arm without `choices`.

    Example:
        >>> ArmTrial("sam", {"steps": 67, "perturbation.rho": 0.01}).name
        'sam--perturbation.rho=0.01--steps=67'
        >>> ArmTrial("adamw").name
        'adamw'
    """

    arm: str
    values: dict[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its cells and folders are called: the same whatever else is tried, and in whichever order."""
        values = (f"{quote(key, safe='')}={_written(value)}" for key, value in sorted(self.values.items()))
        return "--".join((self.arm, *values))  # a comma would part it in a list of the command line


def arm_trials(arm: str, keys: Mapping[str, Any]) -> list[ArmTrial]:
    """Return every combination of an arm's `choices`, the last option fastest; without any, the arm itself.

    Args:
        arm: its name in the config.
        keys: what the config says of it.

    Raises:
        UserError: `choices` does not hold lists of values, each different, of options that are not set
            beside it; or there are too many combinations.

    Example:
        >>> [trial.name for trial in arm_trials("sam", {"choices": {"perturbation.rho": [0.01, 0.02]}})]
        ['sam--perturbation.rho=0.01', 'sam--perturbation.rho=0.02']
    """
    if "choices" not in keys:
        return [ArmTrial(arm)]
    place = f"arms.{arm}.choices"
    if not isinstance(keys["choices"], Mapping) or not keys["choices"]:
        raise UserError(
            f"{place}: must hold the values to try of each option, such as "
            f"{{learning_rate: [1.0e-4, 2.0e-4]}}, but is {keys['choices']!r}"
        )
    choices = dict(dotted(keys["choices"]))
    beside = {key: of for key, of in keys.items() if key not in ("choices", "description")}
    if problems := [f"{place}.{option}: {text}" for option, text in _problems(choices, beside)]:
        raise UserError(*problems)
    count = math.prod(map(len, choices.values()))
    if count > MOST:
        raise UserError(f"{place}: {count} combinations are too many, {MOST} the most; write fewer values")
    combinations = itertools.product(*choices.values())
    return [ArmTrial(arm, dict(zip(choices, values, strict=True))) for values in combinations]


def dotted(choices: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield option -> values of the `choices` of an arm, where a mapping in them means the same as a dot.

    Args:
        choices: as the config has them.
        place: begins every option.

    Example:
        >>> dict(dotted({"perturbation": {"rho": [0.1]}, "steps": [10]}))
        {'perturbation.rho': [0.1], 'steps': [10]}
    """
    for key, values in choices.items():
        if isinstance(values, Mapping) and values:
            yield from dotted(values, f"{place}{key}.")
        else:
            yield f"{place}{key}", values


def drawn(
    trials: Sequence[ArmTrial], passes: Mapping[str, float], budget: float, seed: int
) -> list[ArmTrial]:
    """Return the trials that a budget allows: drawn at random, none twice, in the order they were given.

    What is drawn depends on no result, so trials can be computed in any order. A larger budget draws the same
    ones and others; further values leave the order of those before as it is.

    Args:
        trials: of one arm, at least one.
        passes: name of a trial -> forward and backward passes of one expert.
        budget: passes of all trials together.
        seed: of the draw.

    Raises:
        UserError: the budget is less than what a trial takes.

    Example:
        >>> trials = arm_trials("adamw", {"choices": {"learning_rate": [1e-5, 2e-5, 4e-5]}})
        >>> passes = {trial.name: 100 for trial in trials}
        >>> [trial.values["learning_rate"] for trial in drawn(trials, passes, budget=250, seed=0)]
        [1e-05, 2e-05]

    Source:
        Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization". Differs: combinations of
        lists, without replacement.
    """
    refuse_small_budget(trials, passes, budget)
    left, taken = budget, set[str]()
    for trial in in_random_order(trials, seed):
        left -= passes[trial.name]
        if left < 0:
            break
        taken.add(trial.name)
    return [trial for trial in trials if trial.name in taken]


def refuse_small_budget(trials: Sequence[ArmTrial], passes: Mapping[str, float], budget: float) -> None:
    """Refuse a budget that is less than what a trial takes.

    Args:
        trials: of one arm, at least one.
        passes: name of a trial -> forward and backward passes of one expert.
        budget: passes of all trials together.

    Raises:
        UserError: it is less.
    """
    most = max(passes.values())
    if budget < most:
        raise UserError(
            f"selection.arm_passes: is {budget:g}, but one trial of the arm {trials[0].arm} takes "
            f"{most:g}; raise it, or leave it out"
        )


def in_random_order(trials: Sequence[ArmTrial], seed: int) -> list[ArmTrial]:
    """Return trials in an order that follows from their names: further ones leave that of others as it is.

    Args:
        trials: of one arm.
        seed: of the order.
    """
    return sorted(trials, key=lambda trial: hashlib.sha256(f"{seed} {trial.name}".encode()).digest())


def with_values(options: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return options of a training with the values of a trial; nothing is modified in place.

    Args:
        options: plain values.
        values: option, dotted inside a mapping -> value.

    Example:
        >>> with_values({"perturbation": {"name": "sam"}}, {"perturbation.rho": 0.1})
        {'perturbation': {'name': 'sam', 'rho': 0.1}}
    """
    changed = dict(options)
    for option, value in values.items():
        first, _, rest = option.partition(".")
        inner = changed.get(first)
        inside = inner if isinstance(inner, Mapping) else {}
        changed[first] = with_values(inside, {rest: value}) if rest else value
    return changed


def without_values(options: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return options of a training without those of a trial; nothing is modified in place.

    Args:
        options: plain values, those of the trial among them.
        values: option, dotted inside a mapping -> value.

    Example:
        >>> without_values({"perturbation": {"name": "sam", "rho": 0.1}}, {"perturbation.rho": 0.1})
        {'perturbation': {'name': 'sam'}}
    """
    changed = dict(options)
    for option, value in values.items():
        first, _, rest = option.partition(".")
        if rest:
            changed[first] = without_values(changed[first], {rest: value})
        else:
            del changed[first]
    return changed


def _problems(choices: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield option -> what is wrong with its values."""
    for option, values in choices.items():
        if _has(beside, option):
            yield option, "has a value beside `choices` already; leave it out there"
        if inside := [other for other in choices if other.startswith(f"{option}.")]:
            yield option, f"holds {inside[0]} as well; choose from one of the two"
        if not isinstance(values, list | tuple):
            yield option, f"must be a list of values, but is {values!r}"
            continue
        if not values:
            yield option, "must not be empty"
        seen: set[str] = set()
        for value in values:
            if not isinstance(value, Value):
                yield (
                    option,
                    f"holds {value!r}; values are numbers, texts, true, false and null, and an option "
                    "inside a mapping is written with a dot, as perturbation.rho",
                )
                break
            if _written(value) in seen:
                yield option, f"holds {value!r} twice; write it once"
                break
            seen.add(_written(value))


def _has(keys: Mapping[str, Any], option: str) -> bool:
    first, _, rest = option.partition(".")
    inner = keys.get(first)
    return first in keys if not rest else isinstance(inner, Mapping) and _has(inner, rest)


def _written(value: Value) -> str:
    """Return a value as a part of a name of a folder."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.15g}"  # 5.0 is 5
    return quote(str(value), safe="")
