from __future__ import annotations

import math

import pytest

from saft.experiment.selection import Candidate, Trial
from saft.experiment.weight_search import PLACES, weight_search, weights_of
from saft.tasks.metric import Score

AIMS = {"a": 0.2, "b": 0.6}


def near(candidate: Candidate) -> dict[str, Score]:
    """Score each task by how near all of its weights are to what is best for it."""
    weights = weights_of(candidate, list(AIMS))
    return {
        task: Score(1 - sum((own - aim) ** 2 for own in weights[task]), None, 10)
        for task, aim in AIMS.items()
    }


def worth(trial: Trial) -> float:
    return sum(trial.values.values()) / 2


@pytest.mark.parametrize("places", PLACES.values())
def test_the_search_begins_at_one_coefficient_and_finds_a_weight_for_each_task(places: int) -> None:
    search = weight_search(list(AIMS), places, 0.4, worth, 60 * places)
    trials = search.trials(near)
    assert set(trials[0].candidate.values()) == {0.4}
    assert len(trials[0].candidate) == 2 * places
    best = max(trials, key=worth)
    assert worth(best) > 1 - 0.1 * (1 - worth(trials[0]))
    assert all(0 <= value <= 1.2 for trial in trials for value in trial.candidate.values())


def test_the_same_seed_gives_the_same_weights() -> None:
    def tried(seed: int) -> list[Candidate]:
        return [t.candidate for t in weight_search(list(AIMS), 3, 0.4, worth, 12, seed).trials(near)]

    assert tried(1) == tried(1) != tried(2)


@pytest.mark.parametrize("start", [0.0, -0.2, 1.0])
def test_every_start_is_inside(start: float) -> None:
    search = weight_search(["a", "b"], 1, start, worth, 8)
    assert search.interval.low <= start <= search.interval.high
    assert all(math.isfinite(value) for trial in search.trials(near) for value in trial.candidate.values())
