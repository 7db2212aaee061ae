"""Two arms on the same test examples, one by one: what their number leaves open of the difference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from saft.interference.paired_interval import error_of_mean, freedom_of_mean, paired_error
from saft.report.results import PairedError

__all__ = ["ByExample", "paired_errors"]

ByExample = Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]]
"""Seed -> merge method -> task -> what each test example adds to the score."""


def paired_errors(
    train_size: str,
    by_example: Mapping[str, ByExample],
    baselines: Sequence[str],
    tasks_of: Mapping[str, Sequence[str]],
    together: Sequence[str],
) -> Iterator[PairedError]:
    """Yield the errors of every other arm against every baseline: of each method, and of several together.

    All seeds and methods see the same examples, so each example counts once, by its mean over them. None is
    yielded where an example's part is not known or not finite.

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
                parts = [_parts(one, other, chosen, task) for task in tasks]
                errors = [paired_error(*of) if of else math.nan for of in parts]
                if errors and all(map(math.isfinite, errors)):
                    freedom = freedom_of_mean(errors, [of[0].shape[-1] for of in parts if of])
                    yield PairedError(
                        train_size, arm, baseline, metric, list(chosen), error_of_mean(errors), freedom
                    )


def _parts(
    one: ByExample, other: ByExample, methods: Sequence[str], task: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what each example adds to the scores of two arms, [seeds and methods, examples].

    The seeds that both have count. None where something of one is not known.
    """
    models = [(seed, method) for seed in one.keys() & other.keys() for method in methods]
    rows = [[of[seed].get(method, {}).get(task, ()) for seed, method in models] for of in (one, other)]
    if len({len(row) for of in rows for row in of}) != 1:
        return None
    first, second = (torch.tensor(of, dtype=torch.float64) for of in rows)
    return first, second
