"""A weight for each task, or for each task along the layers, found from one coefficient on (CMA-ES)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saft.experiment.sampled_search import CmaEs, Interval
from saft.experiment.selection import Candidate, Trial
from saft.experiment.weighted_trunk import Weights

__all__ = ["PLACES", "weight_search", "weights_of"]

PLACES = {"per_task": 1, "per_layer": 3}
"""Of each choice, how many weights a task has: one for all layers, or at the first, middle and last layer."""


def weight_search(
    tasks: Sequence[str],
    places: int,
    start: float,
    worth: Callable[[Trial], float],
    evaluations: int,
    seed: int = 0,
) -> CmaEs:
    r"""Return the search of weights, all of which begin at the shared coefficient λ and stay in [0, 3 λ].

    Args:
        tasks: in the order of the merge.
        places: weights of a task.
        start: λ; the search is as wide as its size.
        worth: trial -> what is maximized.
        evaluations: how many candidates are tried, the start among them.
        seed: of what is drawn.

    Raises:
        UserError: cmaes is not installed.

    Example:
        >>> list(weight_search(["a", "b"], 1, 0.4, lambda trial: 0.0, 20).start)
        ['a', 'b']
        >>> list(weight_search(["a", "b"], 3, 0.4, lambda trial: 0.0, 20).start)
        ['a, place 1 of 3', 'a, place 2 of 3', 'a, place 3 of 3', 'b, place 1 of 3', ...]
    """
    names = [
        task if places == 1 else f"{task}, place {place} of {places}"
        for task in tasks
        for place in range(1, places + 1)
    ]
    reach = abs(start) or 0.1
    interval = Interval(min(0.0, start), 3 * reach)
    return CmaEs(dict.fromkeys(names, start), interval, reach / 4, worth, evaluations, seed)


def weights_of(candidate: Candidate, tasks: Sequence[str]) -> Weights:
    """Return task -> its weights along the layers, of a candidate of `weight_search`.

    Args:
        candidate: every task's weights, task after task.
        tasks: in the same order.

    Example:
        >>> weights_of({"a, place 1 of 2": 0.1, "a, place 2 of 2": 0.2, "b, ...": 0.3, "b": 0.4}, ["a", "b"])
        {'a': [0.1, 0.2], 'b': [0.3, 0.4]}
    """
    values = list(candidate.values())
    places = len(values) // len(tasks)
    return {task: values[at * places : (at + 1) * places] for at, task in enumerate(tasks)}
