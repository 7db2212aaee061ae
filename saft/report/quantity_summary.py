"""What was measured of one arm, every number over the seeds, whatever the quantity goes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saft.interference.quantity import OWN_LOSS, OWN_METRIC, Measured, Quantity, numbers_of
from saft.report.over_seeds import OverSeeds, complete_mean, finite_over_seeds

__all__ = ["QuantitySummary", "quantity_summary"]


@dataclass(frozen=True)
class QuantitySummary:
    """A measured quantity in one arm.

    Attributes:
        mean: over all tasks, or all pairs of two; None unless all are there, and where a mean says nothing:
            of tasks whose metrics have several units, and of what goes over something else.
        numbers: what each is of, as the quantity's axes say, such as (task, task) -> number.
    """

    mean: OverSeeds | None
    numbers: dict[tuple[str, ...], OverSeeds]


def quantity_summary(
    measured: Mapping[int, Measured | None], quantity: Quantity, tasks: Sequence[str]
) -> QuantitySummary:
    """Return the figures of a quantity that are known and finite.

    Args:
        measured: seed -> as the measure gave it; None where it was not measured.
        quantity: what it is.
        tasks: of the experiment.

    Example:
        >>> norms = {0: {"a": 1.0, "b": 2.0}, 1: {"a": 1.5, "b": 2.5}}
        >>> summary = quantity_summary(norms, Quantity("length", per="task"), ["a", "b"])
        >>> summary.mean.written(), summary.numbers["a",].mean
        ('1.8 ± 0.4', 1.25)
    """
    by_seed = {seed: dict(numbers_of(value)) for seed, value in measured.items()}
    keys = dict.fromkeys(key for numbers in by_seed.values() for key in numbers)
    each = {key: finite_over_seeds({s: numbers.get(key) for s, numbers in by_seed.items()}) for key in keys}
    over: dict[str, list[tuple[str, ...]]] = {
        "set": [()],
        "task": [(task,) for task in tasks],
        "pair": [(s, t) for s in tasks for t in tasks if s != t],
    }
    mean = None
    if quantity.per in over and quantity.unit not in (OWN_LOSS, OWN_METRIC):
        means = {s: complete_mean(n.get(key) for key in over[quantity.per]) for s, n in by_seed.items()}
        mean = finite_over_seeds(means)
    return QuantitySummary(mean, {key: values for key, values in each.items() if values is not None})
