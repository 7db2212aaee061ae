"""Drawing the trials of an arm in rounds: what follows from what, and that it finds good ones."""

from __future__ import annotations

import math
import statistics

import pytest

from saft.experiment.arm_trials import ArmTrial, arm_trials, drawn
from saft.experiment.trial_search import FIRST, NEXT, TrialSearch

CHOICES = {
    "learning_rate": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3],
    "perturbation.rho": [0.5, 0.01, 0.05, 0.1],  # in no order
    "steps": [10, 20, 40],
    "schedule": ["linear", "constant", None],
}
TRIALS = arm_trials("a", {"choices": CHOICES})
PASSES = {trial.name: float(str(trial.values["steps"])) for trial in TRIALS}


def worth(trial: ArmTrial) -> float:
    rate, rho, steps, schedule = (trial.values[option] for option in CHOICES)
    near = abs(math.log10(float(str(rate)) / 3e-4)) + 0.5 * abs(math.log10(float(str(rho)) / 0.05))
    return 80 - 5 * near + math.log(float(str(steps))) + (schedule == "linear")


def searched(budget: float, seed: int = 0, upward: bool = True, known: int = 10**9) -> list[str]:
    """Return the names in the order of their draws, as long as no more than so many are known."""
    search, worths = TrialSearch(TRIALS, PASSES, budget, seed, upward), dict[str, float]()
    while len(worths) < known and (round_ := search.next_round(worths)):
        worths |= {trial.name: worth(trial) if upward else -worth(trial) for trial in round_}
    return list(worths)


def test_the_draws_follow_from_the_seed_and_the_worths() -> None:
    assert searched(600) == searched(600) != searched(600, seed=1)
    assert searched(600) == searched(600, upward=False)


def test_a_larger_budget_goes_on_where_a_smaller_one_ended() -> None:
    longest = searched(800)
    for budget in (90, 150, 237, 400, 555, 700):
        names = searched(budget)
        assert names == longest[: len(names)]
        assert sum(PASSES[name] for name in names) <= budget
    assert len(searched(400)) < len(searched(700)) < len(longest)


def test_a_round_that_the_budget_has_cut_is_the_last() -> None:
    search = TrialSearch(TRIALS, dict.fromkeys(PASSES, 10.0), budget=10.0 * (FIRST + NEXT) + 15)
    worths: dict[str, float] = {}
    sizes = []
    while round_ := search.next_round(worths):
        sizes.append(len(round_))
        worths |= {trial.name: worth(trial) for trial in round_}
    assert sizes == [FIRST, NEXT, 1]


def test_no_trial_is_drawn_twice_and_all_are_where_the_budget_allows() -> None:
    trials = arm_trials("a", {"choices": {"x": [1, 2, 3, True], "y": ["p", 2.5]}})
    search, names = TrialSearch(trials, {trial.name: 1 for trial in trials}, budget=100), list[str]()
    while round_ := search.next_round(dict.fromkeys(names, 1.0)):
        names += [trial.name for trial in round_]
    assert sorted(names) == sorted(trial.name for trial in trials)


def test_the_first_round_is_drawn_at_random_and_needs_no_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    names = {trial.name for trial in TrialSearch(TRIALS, PASSES, 800).next_round({})}
    assert names < {trial.name for trial in drawn(TRIALS, PASSES, 800, 0)}
    assert len(names) == FIRST


def test_trials_that_diverged_are_the_worst_and_all_of_them_may_be() -> None:
    search = TrialSearch(TRIALS, PASSES, 800)
    first = [trial.name for trial in search.next_round({})]
    assert len(search.next_round(dict.fromkeys(first, math.nan))) == NEXT
    lost = {name: math.inf if number else 1.0 for number, name in enumerate(first)}
    assert len(search.next_round(lost)) == NEXT


def test_what_is_foreseen_fits_the_budget_and_is_none_of_the_tried() -> None:
    search = TrialSearch(TRIALS, PASSES, 300)
    assert search.foreseen([]) == search.foreseen(())
    tried = [trial.name for trial in search.next_round({})]
    more = [trial.name for trial in search.foreseen(tried)]
    assert not set(tried) & set(more)
    assert 300 - 40 <= sum(PASSES[name] for name in [*tried, *more]) <= 300


@pytest.mark.slow  # 40 searches
def test_it_finds_better_ones_than_a_draw_at_random() -> None:
    by_name = {trial.name: worth(trial) for trial in TRIALS}
    best = max(by_name.values())
    less: dict[str, list[float]] = {"tpe": [], "random": []}
    for seed in range(20):
        less["tpe"].append(best - max(by_name[name] for name in searched(500, seed)))
        at_random = drawn(TRIALS, PASSES, 500, seed)
        less["random"].append(best - max(by_name[trial.name] for trial in at_random))
    assert statistics.fmean(less["tpe"]) < statistics.fmean(less["random"])
