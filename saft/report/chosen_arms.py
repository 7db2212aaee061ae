"""The arms with `choices` in words: what was tried of each, and what was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from saft.report.over_seeds import OverSeeds
from saft.report.results import ArmSearch, Results, TrialFacts
from saft.written import as_count, as_number

__all__ = ["TriedRow", "chosen_arms", "tried", "values_in_words", "worth_in_words"]

SHARE = 100.0  # percent of the best experts' scores, where the tasks have several metrics


@dataclass(frozen=True)
class TriedRow:
    """One trial as tables show it.

    Attributes:
        arm: its name.
        values: in words, those that tell it from the other trials.
        passes: of one expert.
        worth: mean over the seeds with its spread; in words where a training diverged.
        by_seed: the worth of each seed; empty where there is one.
        chosen: whether it is reported as the arm.
    """

    arm: str
    values: str
    passes: float
    worth: str
    by_seed: str
    chosen: bool


def chosen_arms(results: Results, train_size: str) -> list[str]:
    """Return a sentence for each arm with `choices`: what was chosen, of how many, how good, at what cost.

    Args:
        results: the experiment.
        train_size: whose arms.
    """
    return [_sentence(search) for search in results.arm_searches if search.train_size == train_size]


def tried(results: Results, train_size: str) -> list[TriedRow]:
    """Return every trial at one train size, in the order of the config.

    Args:
        results: the experiment.
        train_size: whose arms.
    """
    return [
        TriedRow(
            arm=search.arm,
            values=values_in_words(trial.values),
            passes=trial.facts.passes or 0.0,
            worth=_worth(search, trial),
            by_seed=", ".join(_number(search, of) for of in trial.worth.values())
            if len(trial.worth) > 1
            else "",
            chosen=name == search.chosen,
        )
        for search in results.arm_searches
        if search.train_size == train_size
        for name, trial in search.trials.items()
    ]


def values_in_words(values: Mapping[str, object]) -> str:
    """Return the values of a trial in words.

    Args:
        values: option -> value.

    Example:
        >>> values_in_words({"learning_rate": 2e-4, "perturbation.rho": 0.01, "gradient_clip": None})
        'learning rate 0.0002, perturbation rho 0.01, gradient clip null'
    """
    written = (
        (option.replace("_", " ").replace(".", " "), _value(value)) for option, value in values.items()
    )
    return ", ".join(f"{option} {value}" for option, value in written)


def worth_in_words(search: ArmSearch) -> str:
    """Return what trials were chosen by: "merged validation accuracy"."""
    return f"merged validation {search.metric.name if search.metric else 'scores, % of the best experts’'}"


def _sentence(search: ArmSearch) -> str:
    chosen, count = search.trials[search.chosen], len(search.trials)
    means = [trial.mean for trial in search.trials.values() if math.isfinite(trial.mean)]
    worst_first = search.metric is None or search.metric.higher_is_better
    ends = sorted(means, reverse=not worst_first)
    trials = f"{count} trials" if count > 1 else "one trial"
    parts = [
        f"best of {trials} on {worth_in_words(search)} "
        f"({_number(search, ends[0])} to {_number(search, ends[-1])})",
        *_asides(search, count - len(means)),
        f"{as_count(search.passes)} passes an expert in all",
    ]
    return f"{search.arm}: {values_in_words(chosen.values)}: {', '.join(parts)}"


def _asides(search: ArmSearch, diverged: int) -> Iterator[str]:
    if len(search.trials) < search.combinations:
        yield f"drawn from {search.combinations} combinations"
    if diverged:
        yield f"{diverged} diverged"


def _worth(search: ArmSearch, trial: TrialFacts) -> str:
    if not math.isfinite(trial.mean):
        return "diverged"
    return OverSeeds(trial.worth).written(*_scale(search))


def _number(search: ArmSearch, value: float) -> str:
    scale, digits = _scale(search)
    return as_number(scale * value, digits) if math.isfinite(value) else "–"


def _scale(search: ArmSearch) -> tuple[float, int]:
    return (search.metric.scale, search.metric.digits) if search.metric else (SHARE, 1)


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
