"""Two arms on the same test examples, one by one: what their number leaves open of the difference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from saft.report.results import PairedError

__all__ = ["ByExample", "paired_error", "paired_errors"]

ByExample = Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]]
"""Seed -> merge method -> task -> what each test example adds to the score."""


def paired_error(
    one: ByExample, other: ByExample, methods: Sequence[str], tasks: Sequence[str]
) -> float | None:
    r"""Return the standard error of the difference of two arms' scores, from the finite number of examples.

    .. math:: e = \frac{1}{T} \sqrt{\sum_t \frac{s_t^2}{n_t}}, \qquad
       d_{ti} = \frac{1}{S M} \sum_{s, m} (a_{smti} - b_{smti})

    :math:`s_t` is the standard deviation of :math:`d_{ti}` over the examples i of task t. All seeds and
    methods see the same examples, so what is averaged over them is averaged for each example first.

    Args:
        one: of an arm.
        other: of the arm that it is compared with; the seeds that both have count.
        methods: that are averaged.
        tasks: that are averaged.

    Returns:
        In the metric's own size; None where an example's part is not known or not finite.

    Example:
        >>> one = {0: {"ties": {"news": [1.0, 1.0, 0.0, 1.0]}}}
        >>> other = {0: {"ties": {"news": [1.0, 0.0, 0.0, 1.0]}}}
        >>> paired_error(one, other, ["ties"], ["news"])
        0.25
    """
    squares = []
    for task in tasks:
        parts = [
            (one[seed].get(method, {}).get(task, ()), other[seed].get(method, {}).get(task, ()))
            for seed in one.keys() & other.keys()
            for method in methods
        ]
        count = len(parts[0][0]) if parts else 0
        if count < 2 or any(len(a) != count or len(b) != count for a, b in parts):
            return None
        if not all(math.isfinite(value) for pair in parts for values in pair for value in values):
            return None  # a merge may ruin a model: an infinite loss
        differences = [fmean(a[i] - b[i] for a, b in parts) for i in range(count)]
        squares.append(stdev(differences) ** 2 / count)
    return math.sqrt(math.fsum(squares)) / len(squares) if squares else None


def paired_errors(
    train_size: str,
    by_example: Mapping[str, ByExample],
    baselines: Sequence[str],
    tasks_of: Mapping[str, Sequence[str]],
    together: Sequence[str],
) -> Iterator[PairedError]:
    """Yield the errors of every other arm against every baseline: of each method, and of several together.

    Args:
        train_size: of the arms.
        by_example: arm -> what its examples add to its scores.
        baselines: the arms that the others are compared with.
        tasks_of: name of a metric -> the tasks that have it.
        together: the methods that a mean over methods is over, of those that are there.
    """
    for arm, baseline in itertools.product(by_example, baselines):
        if arm in baselines or baseline not in by_example:
            continue
        one, other = by_example[arm], by_example[baseline]
        methods = list(dict.fromkeys(method for of in one.values() for method in of))
        for metric, tasks in tasks_of.items():
            averaged = tuple(method for method in methods if method in together)
            for chosen in dict.fromkeys([averaged, *((method,) for method in methods)]):
                error = paired_error(one, other, chosen, tasks)
                if error is not None:
                    yield PairedError(train_size, arm, baseline, metric, list(chosen), error)
