"""Who will hurt whom: what was measured of a set of models, in sentences that name them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from saft.interference.quantity import Measured, Quantity

__all__ = ["HOW_RIGHT", "SHARE", "hurting_pairs", "verdict"]

HOW_RIGHT = (
    "How far such verdicts were right: on 3 sets of 4 experts (of an earlier quickstart, and four tasks of "
    "configs/minilm-eight.yaml) they named nobody, and on test examples no task lost more than 2.8 points by "
    "another's vector, 0.3 on average. Which of such small harms is the largest was not foretold: the rank "
    "correlation with test was 0.02 over pairs, and 0.16 over models left out."
)
"""What `scripts/bench verdicts` measured of the verdicts; the README has the protocol."""
SHARE = 0.1  # of what fine-tuning gained on a task: a pair that loses more of it is said to hurt


def verdict(measured: Mapping[str, Measured], quantities: Mapping[str, Quantity]) -> list[str]:
    """Return sentences on which models hurt each other in a merge, from whatever was measured.

    The merges themselves decide where they were made: leaving each model out names the culprit, and each pair
    by itself says who does not go together. Without them it is told who disturbs or overlaps most, by the
    functions or else by the weights, which has not foretold who is hurt: see `HOW_RIGHT`.

    Args:
        measured: quantity -> value.
        quantities: what each of them is.

    Returns:
        At least one sentence of two models or more; nothing of one.

    Example:
        >>> harm = {"a": {"b": 0.04, "c": 0.02}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": -0.01, "b": 0.0}}
        >>> what = {"harm": Quantity("example", "%", per="pair", scale=100, decimals=1)}
        >>> verdict({"harm": harm}, what)
        ['a hurts the merge most: without it the others gain 3.0 % on average (b +4.0, c +2.0).']
    """
    sentences = [*_culprit(measured, quantities), *_pairs(measured, quantities)]
    return sentences or [*_by_functions(measured, quantities)] or [*_by_weights(measured, quantities)]


def _culprit(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    harm = {j: row for j, row in measured.get("harm", {}).items() if row}
    if not harm:
        return
    quantity = quantities["harm"]
    means = {j: fmean(row.values()) for j, row in harm.items()}
    worst = max(means, key=lambda j: means[j])
    gain = _with_unit(means[worst], quantity)
    each = ", ".join(f"{task} {_signed(change, quantity)}" for task, change in harm[worst].items())
    error = _error_of_mean(measured, list(harm[worst]))
    if means[worst] <= 0:
        yield (
            f"no model hurts the others: even without {worst} they gain nothing on average, {gain} ({each})."
        )
    elif means[worst] < 2 * error:
        yield (
            f"no model is seen to hurt the others: without {worst} they gain most, {gain} on average "
            f"({each}), which so few examples do not tell from chance (standard error "
            f"{quantity.format(error)})."
        )
    else:
        yield (f"{worst} hurts the merge most: without it the others gain {gain} on average ({each}).")


def _error_of_mean(measured: Mapping[str, Any], tasks: list[str]) -> float:
    """Return the standard error of a mean of differences of scores, as if the two were of other examples.

    They are of the same, so that the true error is smaller; 0 where an error is not known.
    """
    errors = measured.get("score_error", {})
    if not all(task in errors for task in tasks):
        return 0.0
    return math.sqrt(2 * math.fsum(errors[task] ** 2 for task in tasks)) / len(tasks)


def hurting_pairs(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return who is said to lose by whom: pairs of a task and the model whose vector hurts it.

    A loss counts that is larger than its error and than `SHARE` of what fine-tuning gained on the task.

    Args:
        measured: quantity -> value; `pair_harm`, and what is there of `score_error` and of scores.

    Example:
        >>> hurting_pairs({"pair_harm": {"a": {"b": 0.2}, "b": {"a": -0.1}}})
        [('a', 'b')]
    """
    gains, errors = _gains(measured), measured.get("score_error", {})
    return [
        (task, other)
        for task, row in measured.get("pair_harm", {}).items()
        for other, loss in row.items()
        if loss > max(math.sqrt(2) * errors.get(task, 0.0), SHARE * gains.get(task, 0.0))
    ]


def _pairs(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    losses = measured.get("pair_harm")
    if not losses:
        return
    quantity = quantities["pair_harm"]
    together: dict[frozenset[str], list[tuple[str, str]]] = {}
    for pair in hurting_pairs(measured):
        together.setdefault(frozenset(pair), []).append(pair)

    def worst(losers: list[tuple[str, str]]) -> float:
        return float(max(losses[a][b] for a, b in losers))

    for losers in sorted(together.values(), key=worst, reverse=True):
        lost = ", ".join(f"{a} loses {_with_unit(losses[a][b], quantity)}" for a, b in losers)
        task, other = losers[0]
        if len(losers) == 2:
            yield f"these two will hurt each other: {task} and {other} (by the other's vector {lost})."
        else:
            yield f"{other} will hurt {task} (by its vector {lost})."
    if not together:
        yield (
            f"no pair is seen to hurt: as a pair, none loses more than {100 * SHARE:.0f} % of what "
            "fine-tuning gained, and more than the error of its score."
        )


def _by_functions(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    for name in ("shift_by_other", "feature_drift"):
        pairs = _apart(measured.get(name, {}))
        if pairs:
            (first, second), value = max(pairs.items(), key=lambda item: item[1])
            culprit, victim = (second, first) if name == "shift_by_other" else (first, second)
            yield (
                f"{culprit} disturbs {victim} most: {quantities[name].meaning}: "
                f"{_with_unit(value, quantities[name])}. Nothing was merged: only a merge tells who is hurt."
            )
            return


def _by_weights(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    pairs = _apart(measured.get("cosine", {}))
    if not pairs:
        return
    (first, second), value = max(pairs.items(), key=lambda item: abs(item[1]))
    yield (
        f"{first} and {second} overlap most in their weights (cosine {quantities['cosine'].format(value)}). "
        "Weights do not tell who suffers: give `tasks:`, so that losses and merges can be measured."
    )


def _gains(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return task -> what fine-tuning gained, whichever way is better."""
    base, expert = measured.get("base_score", {}), measured.get("expert_score", {})
    return {task: abs(expert[task] - base[task]) for task in base if task in expert}


def _apart(matrix: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {(s, t): value for s, row in matrix.items() for t, value in row.items() if s != t}


def _with_unit(value: float, quantity: Quantity) -> str:
    return f"{quantity.format(value)} {quantity.unit}".rstrip()


def _signed(value: float, quantity: Quantity) -> str:
    return f"{'+' if value >= 0 else ''}{quantity.format(value)}".replace("-", "−")
