"""TPE and CMA-ES: as good as an exhaustive grid in fewer evaluations, and the same again by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from saft.errors import UserError
from saft.experiment.sampled_search import CmaEs, Interval, Tpe
from saft.experiment.selection import Candidate, Trial
from saft.tasks.metric import Score


def scores(value: float) -> dict[str, Score]:
    return {"a": Score(value, None, 5)}


def worth(trial: Trial) -> float:
    return trial.values["a"]


def peak(candidate: Candidate) -> dict[str, Score]:
    """Return a score with its maximum of 1 at a coefficient of 0.7 and a density of 0.2."""
    return scores(1 - (candidate["scaling"] - 0.7) ** 2 - abs(candidate.get("density", 0.2) - 0.2))


SPACE = {"density": [0.05, 0.1, 0.2, 0.5, 1.0], "scaling": Interval(0.0, 2.0)}


def test_tpe_comes_as_near_as_an_exhaustive_grid_in_a_third_of_the_evaluations() -> None:
    steps = [step / 20 for step in range(41)]
    grid = max(
        peak({"density": d, "scaling": s})["a"].value for d, s in itertools.product(SPACE["density"], steps)
    )
    trials = Tpe(SPACE, worth, 60).trials(peak)
    assert len(trials) == 60 < 5 * 41 / 3
    assert max(map(worth, trials)) > grid - 0.01
    assert {trial.candidate["density"] for trial in trials} <= set(SPACE["density"])


def test_a_list_keeps_its_numbers_whole() -> None:
    trials = Tpe({"rank": [2, 3], "scaling": [1.0]}, worth, 4).trials(lambda _: scores(1.0))
    assert all(isinstance(trial.candidate["rank"], int) for trial in trials)


AIMS = {"a": 0.2, "b": 0.6, "c": 0.9}


def near(candidate: Candidate) -> dict[str, Score]:
    return scores(-sum((candidate[task] - aim) ** 2 for task, aim in AIMS.items()))


def by_tpe(seed: int) -> list[Trial]:
    return Tpe(dict.fromkeys(AIMS, Interval(0.0, 1.0)), worth, 12, seed).trials(near)


def by_cma_es(seed: int, evaluations: int = 12) -> list[Trial]:
    start = dict.fromkeys(AIMS, 0.5)
    return CmaEs(start, Interval(0.0, 1.0), 0.2, worth, evaluations, seed).trials(near)


@pytest.mark.parametrize("trials", [by_tpe, by_cma_es])
def test_a_seed_gives_the_same_trials(trials: Callable[[int], list[Trial]]) -> None:
    assert trials(1) == trials(1)
    assert trials(1) != trials(2)
    assert len(trials(1)) == 12


def test_cma_es_begins_at_the_start_and_comes_to_a_coefficient_for_each_task() -> None:
    trials = by_cma_es(seed=0, evaluations=80)
    assert trials[0].candidate == dict.fromkeys(AIMS, 0.5)
    assert max(map(worth, trials)) > -0.01 > worth(trials[0])
    assert all(0 <= value <= 1 for trial in trials for value in trial.candidate.values())


def test_cma_es_passes_over_what_is_not_a_number() -> None:
    def validate(candidate: Candidate) -> dict[str, Score]:
        return scores(math.nan) if candidate["a"] > 0.5 else near(candidate)

    trials = CmaEs(dict.fromkeys(AIMS, 0.5), Interval(0, 1), 0.2, worth, 80).trials(validate)
    assert max(worth(trial) for trial in trials if not math.isnan(worth(trial))) > -0.02


def test_what_is_not_a_number_is_never_the_aim() -> None:
    def validate(candidate: Candidate) -> dict[str, Score]:
        return scores(math.nan if candidate["scaling"] > 1 else candidate["scaling"])

    trials = Tpe({"scaling": Interval(0.0, 2.0)}, worth, 25).trials(validate)
    assert max(worth(trial) for trial in trials if not math.isnan(worth(trial))) > 0.9


def test_without_the_library_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"search: tpe: needs optuna, .* pip install 'merge-saft\[search\]'"):
        Tpe(SPACE, worth, 1)
