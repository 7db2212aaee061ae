from __future__ import annotations

import math
from collections import Counter

import pytest

from saft.experiment.halving import CLOSEST, halving, merges_needed, next_coefficient

GRIDS = {
    "flat": (1.0, [1.0]),
    "low": (0.4, [0.1, 1.0]),
    "high": (1.0, [0.2, 2.0]),
    "bad": (1.0, [0.2, 2.0]),
}
PEAKS = {"flat": (1.0, 0.50), "low": (0.33, 0.60), "high": (1.55, 0.70), "bad": (1.0, 0.10)}


def worth(method: str, coefficient: float) -> float:
    peak, height = PEAKS[method]
    return height - (coefficient - peak) ** 2


def test_better_methods_have_more_of_the_budget_and_the_best_comes_near_its_best_coefficient() -> None:
    tried = halving(GRIDS, worth, 40)
    counts = {method: len(worths) for method, worths in tried.items()}
    assert sum(counts.values()) <= 40
    assert counts["flat"] == 1
    assert min(counts["high"], counts["low"]) > counts["bad"] >= 1  # both came to their end
    best = max(tried["high"], key=lambda at: tried["high"][at])
    assert best == pytest.approx(1.55, abs=2 * 1.8 * CLOSEST)


@pytest.mark.parametrize("budget", [4, 5, 11, 40])
def test_the_budget_is_kept_and_every_method_is_tried(budget: int) -> None:
    asked: Counter[str] = Counter()

    def counting(method: str, coefficient: float) -> float:
        asked[method] += 1
        return worth(method, coefficient)

    halving(GRIDS, counting, budget)
    assert set(asked) == set(GRIDS)
    assert asked.total() <= budget


def test_a_merge_is_made_once_a_round() -> None:
    order: list[str] = []

    def noting(method: str, coefficient: float) -> float:
        if not order or order[-1] != method:
            order.append(method)
        return worth(method, coefficient)

    halving(GRIDS, noting, 40)
    assert len(order) <= merges_needed(len(GRIDS)) == 7


def test_what_is_not_a_number_is_never_the_best() -> None:
    tried = halving(
        {"a": (1.0, [0.2, 2.0]), "b": (1.0, [0.2, 2.0])}, lambda m, at: math.nan if m == "a" else at, 12
    )
    assert len(tried["b"]) > len(tried["a"])


def test_the_search_stays_inside_the_grid_and_ends() -> None:
    tried: dict[float, float] = {}
    while (at := next_coefficient(tried, 3.0, [0.2, 2.0])) is not None:
        assert 0.2 <= at <= 2.0
        tried[at] = -at
    assert len(tried) < 20
    assert min(tried) == pytest.approx(0.2, abs=1.8 * CLOSEST)
