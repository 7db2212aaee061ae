"""Who will hurt whom: what was measured of a set of models, in sentences that name them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from saft.errors import abbreviated
from saft.interference.hurting import (
    SHARE,
    halves_of_pairs,
    has_no_mean,
    hurting_pairs,
    left_out,
    worst_first,
)
from saft.interference.quantity import OWN_LOSS, OWN_METRIC, Measured, Quantity

__all__ = ["HOW_RIGHT", "verdict", "verdict_of_merges"]

HOW_RIGHT = (
    "How far such verdicts were right: of 4 sets of experts (4 or 6 tasks, 64 validation examples each) they "
    "named no pair and one model. Without it the other tasks gained 4.2 points there, and on test examples "
    "1.5, the most of that set, but no more than chance makes (−0.7 to 3.7). No task lost more than 3.0 "
    "points by another's vector, 0.1 on average. Which of such small harms is the largest was not foretold: "
    "the rank correlation with test was 0.06 over pairs, and 0.29 over models left out."
)
"""What `scripts/bench verdicts` measured of the verdicts; the README has the protocol."""
MOST_TIMES = 100  # as many examples: of a harm that takes more of them to see, none are advised


def verdict(
    measured: Mapping[str, Measured],
    quantities: Mapping[str, Quantity],
    examples: Mapping[str, int] | None = None,
) -> list[str]:
    r"""Return sentences on which models hurt each other in a merge, from whatever was measured.

    A model that has diverged is named first. The merges themselves decide where they were made: leaving each
    model out names the culprit, or several, and each pair by itself says who does not go together. Without
    them it is told who disturbs or overlaps most, by the functions or else by the weights, which has not
    foretold who is hurt: see `HOW_RIGHT`.

    Nobody is named whose harm is not larger than chance makes the largest of as many harms that are none:

    .. math:: h > t_{1 - 0.025 / m}\, e

    e is the standard error of h over the same examples, m the number of models, or of ordered pairs, and t
    Student's, of as many examples. The intervals in the sentences, :math:`h \pm t e`, hold for all of them
    together at 95 %.

    Args:
        measured: quantity -> value.
        quantities: what each of them is.
        examples: task -> number of those that it was measured on; None takes them for many.

    Returns:
        At least one sentence of two models or more; of one only where it has diverged.

    Example:
        >>> harm = {"a": {"b": 0.04, "c": 0.02}, "b": {"a": 0.0, "c": 0.0}, "c": {"a": -0.01, "b": 0.0}}
        >>> error = {"a": {"b": 0.01, "c": 0.01}, "b": {"a": 0.01, "c": 0.01}, "c": {"a": 0.01, "b": 0.01}}
        >>> what = {"harm": Quantity("example", "%", per="pair", scale=100, decimals=1)}
        >>> verdict({"harm": harm, "harm_error": error}, what)
        ['a hurts the merge most: without it the others gain 3.0 % on average (95 % interval 1.3 to 4.7; ...']
    """
    said = verdict_of_merges(measured, quantities, examples)
    said = said or [*_by_functions(measured, quantities)] or [*_by_weights(measured, quantities)]
    return [*_diverged(measured), *said]


def verdict_of_merges(
    measured: Mapping[str, Measured],
    quantities: Mapping[str, Quantity],
    examples: Mapping[str, int] | None = None,
) -> list[str]:
    """Return the sentences that rest on merges that were made; none where none were. See `verdict`.

    Args:
        measured: quantity -> value.
        quantities: what each of them is.
        examples: task -> number of those that it was measured on; None takes them for many.

    Example:
        >>> verdict_of_merges({"cosine": {"a": {"b": 0.9}, "b": {"a": 0.9}}}, {})
        []
    """
    counts = examples or {}
    return [
        *_broken(measured),
        *_culprit(measured, quantities, counts),
        *_pairs(measured, quantities, counts),
    ]


def _diverged(measured: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence on each model that is broken by itself."""
    for task in _of_broken_models(measured):
        yield f"{task} has no finite loss or score on its own examples: leave it out, or train it again."


def _of_broken_models(measured: Mapping[str, Any]) -> dict[str, None]:
    own = [of for name in ("loss", "expert_score") if isinstance(of := measured.get(name), Mapping)]
    return dict.fromkeys(task for of in own for task in _not_finite(of))


def _broken(measured: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence on each task that a merge leaves without a finite score, where every model has one."""
    if _of_broken_models(measured):
        return
    rows = measured.get("harm", {}).values()
    for task in dict.fromkeys(task for row in rows for task in _not_finite(row)):
        yield f"{task} has no finite score in the merge of all, or in one that leaves a model out."
    for task, row in measured.get("pair_harm", {}).items():
        if others := _not_finite(row):
            with_others = f"merged with {abbreviated(others)}"
            yield f"{task} has no finite score by its own vector scaled, or {with_others}."


def _not_finite(row: Mapping[str, float]) -> list[str]:
    return [name for name, value in row.items() if not math.isfinite(value)]


def _culprit(
    measured: Mapping[str, Any], quantities: Mapping[str, Quantity], examples: Mapping[str, int]
) -> Iterator[str]:
    known = left_out(measured, examples)
    if not known:
        return
    quantity, hurting = quantities["harm"], worst_first(known, quantities)
    if has_no_mean(known, quantities):
        yield "who hurts the merge is not told: metrics of several units have no mean over the tasks."
        return
    for number, j in enumerate(hurting):
        hurts = "hurts it too" if number else "hurts the merge most"
        yield f"{j} {hurts}: without it {_gain(*known[j], quantity, 'the others gain')}."
    if hurting:
        return
    worst = max(known, key=lambda j: known[j][1])
    _, mean, half = known[worst]
    if mean <= 0:
        gain = _gain(*known[worst], quantity, "they gain nothing,")
        yield f"no model is seen to hurt the others: even without {worst}, {gain}."
    else:
        gain = _gain(*known[worst], quantity, "they gain most,")
        yield (
            f"no model is seen to hurt the others: without {worst}, {gain}, "
            f"which so few examples do not tell from chance{_enough(mean, half)}."
        )


def _enough(mean: float, half: float) -> str:
    """Return how many more examples would tell, since an error falls with the root of their number."""
    times = (half / mean) ** 2
    return f" (about {math.ceil(times)} times as many would)" if times <= MOST_TIMES else ""


def _gain(row: Mapping[str, float], mean: float, half: float, quantity: Quantity, others: str) -> str:
    """Return who gains how much: the one other task, or the mean over several with each of them behind it."""
    gain, interval = _with_unit(mean, quantity), _interval(mean, half, quantity)
    if len(row) == 1:
        return f"{next(iter(row))} gains {gain} ({interval})"
    each = ", ".join(f"{task} {_signed(change, quantity)}" for task, change in row.items())
    return f"{others} {gain} on average ({interval}; {each})"


def _pairs(
    measured: Mapping[str, Any], quantities: Mapping[str, Quantity], examples: Mapping[str, int]
) -> Iterator[str]:
    losses = measured.get("pair_harm")
    if not losses:
        return
    quantity, halves = quantities["pair_harm"], halves_of_pairs(measured, examples)
    together: dict[frozenset[str], list[tuple[str, str]]] = {}
    for pair in hurting_pairs(measured, examples):
        together.setdefault(frozenset(pair), []).append(pair)

    def worst(losers: list[tuple[str, str]]) -> float:
        return float(max(losses[a][b] for a, b in losers))

    for losers in sorted(together.values(), key=worst, reverse=True):
        each = ((a, losses[a][b], halves[a, b]) for a, b in losers)
        lost = ", ".join(
            f"{a} loses {_with_unit(loss, quantity)}, {_interval(loss, half, quantity)}"
            for a, loss, half in each
        )
        task, other = losers[0]
        if len(losers) == 2:
            yield f"these two will hurt each other: {task} and {other} (by the other's vector {lost})."
        else:
            yield f"{other} will hurt {task} (by its vector {lost})."
    finite = [half for (task, other), half in halves.items() if math.isfinite(losses[task][other])]
    if together or not finite:
        return
    if not any(map(math.isfinite, finite)):
        yield "no pair is seen to hurt: how sure it is what one loses is not known, as of a single example."
    else:
        yield (
            f"no pair is seen to hurt: as a pair, none loses both more than {100 * SHARE:.0f} % of what "
            f"fine-tuning gained and more than chance makes the worst of {len(halves)}."
        )


def _interval(value: float, half: float, quantity: Quantity) -> str:
    if not math.isfinite(half):
        return "its error is not known"
    if half == 0:  # as of an F1, of which examples that do not differ give no error
        return "no example differs"
    low, high = (quantity.format(end) for end in (value - half, value + half))
    return f"95 % interval {low} to {high}"


def _by_functions(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    for name in ("shift_by_other", "feature_drift"):
        pairs = _apart(measured.get(name, {}))
        if pairs and quantities[name].unit != OWN_LOSS:  # which cannot be compared over the tasks
            (first, second), value = max(pairs.items(), key=lambda item: item[1])
            culprit, victim = (second, first) if name == "shift_by_other" else (first, second)
            disturbs = f"{culprit} disturbs {victim} most"
            if value <= 0:
                disturbs = f"no model disturbs another; the nearest to it is {culprit} for {victim}"
            yield (
                f"{disturbs}: {quantities[name].meaning}: "
                f"{_with_unit(value, quantities[name])}. Nothing was merged: only a merge tells who is hurt."
            )
            return


def _by_weights(measured: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[str]:
    pairs = _apart(measured.get("cosine", {}))
    if not pairs:
        return
    (first, second), value = max(pairs.items(), key=lambda item: abs(item[1]))
    how = "overlap most in" if value > 0 else "are most opposed in" if value < 0 else "do not overlap in"
    yield (
        f"{first} and {second} {how} their weights (cosine {quantities['cosine'].format(value)}). "
        "Weights do not tell who suffers: `leave_one_out` and `pairwise` do, which take models with tasks."
    )


def _apart(matrix: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """Return the finite numbers of pairs, without those of a task with itself."""
    pairs = {(s, t): value for s, row in matrix.items() for t, value in row.items() if s != t}
    return {pair: value for pair, value in pairs.items() if math.isfinite(value)}


def _with_unit(value: float, quantity: Quantity) -> str:
    unit = f"in {OWN_METRIC}" if quantity.unit == OWN_METRIC else quantity.unit
    return f"{quantity.format(value)} {unit}".rstrip()


def _signed(value: float, quantity: Quantity) -> str:
    return f"{'+' if value >= 0 else ''}{quantity.format(value)}"
