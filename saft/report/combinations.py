"""Numbers over scales, apart for each task or pair of tasks, and their mean over pairs."""

from __future__ import annotations

from collections.abc import Mapping

from saft.report.over_seeds import OverSeeds, complete_mean, finite_over_seeds
from saft.report.shape import Shape

__all__ = ["Numbers", "by_combination", "mean_of_parts"]

Numbers = Mapping[tuple[str, ...], OverSeeds]  # what it is of -> value


def by_combination(numbers: Numbers, shape: Shape) -> dict[str, Numbers]:
    """Return the tasks that a part is of, in words -> what is along the scales.

    A pair whose numbers are the same in both orders is there once; a task with itself says nothing, and is
    left out.

    Args:
        numbers: of a quantity in one arm.
        shape: of the quantity.
    """
    parts: dict[tuple[str, ...], dict[tuple[str, ...], OverSeeds]] = {}
    for key, values in numbers.items():
        tasks = tuple(key[level] for level in shape.of_tasks)
        if len(set(tasks)) == len(tasks):
            parts.setdefault(tasks, {})[tuple(key[level] for level in shape.scales)] = values
    symmetric = all(parts.get(tasks[::-1]) == part for tasks, part in parts.items())
    kept: list[tuple[str, ...]] = []
    for tasks in parts:
        if not symmetric or tasks == tasks[::-1] or tasks[::-1] not in kept:
            kept.append(tasks)
    return {" – ".join(tasks): parts[tasks] for tasks in kept}


def mean_of_parts(parts: Mapping[str, Numbers]) -> dict[tuple[str, ...], OverSeeds]:
    """Return the mean over all parts at each place that all of them have, of the seeds that do.

    Args:
        parts: as `by_combination` returns them.

    Example:
        >>> mean_of_parts({"a – b": {("0",): OverSeeds({0: 1.0})}, "a – c": {("0",): OverSeeds({0: 2.0})}})
        {('0',): OverSeeds(by_seed={0: 1.5})}
    """
    means = {}
    for place in dict.fromkeys(place for part in parts.values() for place in part):
        here = [part[place].by_seed if place in part else {} for part in parts.values()]
        seeds = dict.fromkeys(seed for by_seed in here for seed in by_seed)
        mean = finite_over_seeds({s: complete_mean(by_seed.get(s) for by_seed in here) for s in seeds})
        if mean is not None:
            means[place] = mean
    return means
