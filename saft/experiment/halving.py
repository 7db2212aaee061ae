"""Which method, at which coefficient, in a budget: each round the better half of the methods goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

__all__ = ["halving", "merges_needed", "next_coefficient"]

CLOSEST = 1 / 40  # of the grid's length: nearer coefficients differ by less than the noise


def halving(
    methods: Mapping[str, tuple[float, Sequence[float]]],
    worth: Callable[[str, float], float],
    budget: int,
) -> dict[str, dict[float, float]]:
    """Try coefficients of every method, then more of those of the better half, until one method is left.

    The budget is spread evenly over the rounds, and in a round over the methods; what a method does not need,
    the later rounds have. So a merge is computed once a round, and not for each coefficient.

    Args:
        methods: method -> its default coefficient, and the grid of its authors.
        worth: (method, coefficient) -> what is maximized; NaN counts as the worst.
        budget: evaluations in all, at least one for each method.

    Returns:
        Method -> coefficient -> worth, of everything that was tried.

    Example:
        >>> tried = halving({"a": (0.4, [0.1, 1.0]), "b": (1.0, [1.0])}, lambda m, at: (m == "a") * at, 8)
        >>> {method: sorted(worths) for method, worths in tried.items()}
        {'a': [0.4, 0.7, 0.85, 0.887, 0.925, 0.944, 0.963], 'b': [1.0]}

    Source:
        Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"
        (successive halving). Differs: the arms are methods, and a round brackets the best coefficient.
    """
    tried: dict[str, dict[float, float]] = {method: {} for method in methods}

    def best(method: str) -> float:
        return max(-math.inf if math.isnan(value) else value for value in tried[method].values())

    alive, left = list(methods), budget
    for rounds in range(_rounds(len(alive)), 0, -1):
        share = max(1, left // rounds // len(alive))
        for method in alive:
            for _ in range(min(share, left)):
                coefficient = next_coefficient(tried[method], *methods[method])
                if coefficient is None:
                    break
                tried[method][coefficient] = worth(method, coefficient)
                left -= 1
        alive = sorted(alive, key=best, reverse=True)[: math.ceil(len(alive) / 2)]
    return tried


def merges_needed(methods: int) -> int:
    """Return how many merged task vectors `halving` asks for, one for each method of each round.

    Args:
        methods: their number.

    Example:
        >>> merges_needed(1), merges_needed(4)
        (1, 7)
    """
    return sum(math.ceil(methods / 2**number) for number in range(_rounds(methods)))


def _rounds(methods: int) -> int:
    return math.ceil(math.log2(methods)) + 1


def next_coefficient(tried: Mapping[float, float], default: float, grid: Sequence[float]) -> float | None:
    """Return the coefficient to try next: the default, then the middle of the wider gap beside the best.

    Args:
        tried: coefficient -> worth.
        default: of the method.
        grid: of its authors, whose ends bound the search.

    Returns:
        A coefficient of three digits; None where there is no choice, or the gaps beside the best are narrow.

    Example:
        >>> next_coefficient({}, 0.4, [0.1, 1.0]), next_coefficient({0.4: 0.7}, 0.4, [0.1, 1.0])
        (0.4, 0.7)
    """
    low, high = min(grid), max(grid)
    if not tried:
        return min(max(default, low), high)
    best = max(sorted(tried), key=lambda at: -math.inf if math.isnan(tried[at]) else tried[at])
    below = max((at for at in tried if at < best), default=low)
    above = min((at for at in tried if at > best), default=high)
    if max(above - best, best - below) <= (high - low) * CLOSEST:
        return None
    middle = (best + above) / 2 if above - best >= best - below else (below + best) / 2
    coefficient = float(f"{middle:.3g}")
    return None if coefficient in tried else coefficient
