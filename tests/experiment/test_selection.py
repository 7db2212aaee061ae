from __future__ import annotations

import math

import pytest

from saft.experiment.selection import Candidate, Grid, Trial, mean_normalized, per_task, shared
from saft.tasks.metric import Metric, Score

ACCURACY = Metric("accuracy", "%")
LOSS = Metric("loss", "nats", higher_is_better=False, scale=1)
BOTH = {"a": ACCURACY, "b": ACCURACY}


def trial(candidate: float, values: dict[str, float]) -> Trial:
    return Trial({"scaling": candidate}, {task: Score(value, None, 10) for task, value in values.items()})


def best(*arguments) -> float:
    return shared(*arguments).candidate["scaling"]


def each(*arguments) -> dict[str, float]:
    return {task: trial.candidate["scaling"] for task, trial in per_task(*arguments).items()}


TRIALS = [
    trial(0.2, {"a": 0.5, "b": 0.9}),
    trial(0.4, {"a": 0.6, "b": 0.8}),
    trial(0.6, {"a": 0.6, "b": 0.8}),
]


def test_shared_weighs_tasks_by_their_experts() -> None:
    assert best(TRIALS, {"a": 1.0, "b": 1.0}, BOTH) == 0.2  # all equal: the smallest
    assert best(TRIALS, {"a": 0.6, "b": 0.9}, BOTH) == 0.4  # a's gain counts for more: its expert is weaker


def test_the_order_of_the_trials_does_not_matter() -> None:
    assert best(TRIALS[::-1], {"a": 1.0, "b": 1.0}, BOTH) == 0.2
    assert each(TRIALS[::-1], BOTH) == each(TRIALS, BOTH)


def test_an_expert_at_zero_does_not_divide() -> None:
    assert best(TRIALS, {"a": 0.0, "b": 0.5}, BOTH) == 0.2


def test_an_expert_below_zero_does_not_turn_the_direction() -> None:
    """A correlation may be negative: divided by it, the worst would be best."""
    trials = [trial(0.2, {"a": 0.1}), trial(0.4, {"a": 0.3})]
    assert best(trials, {"a": -0.1}, {"a": ACCURACY}) == 0.4


def test_per_task_takes_the_smallest_of_equals() -> None:
    assert each(TRIALS, BOTH) == {"a": 0.4, "b": 0.2}


def test_a_loss_is_better_when_it_is_lower() -> None:
    trials = [trial(0.2, {"a": 0.5, "b": 3.0}), trial(0.4, {"a": 0.6, "b": 6.0})]
    metrics = {"a": ACCURACY, "b": LOSS}
    assert each(trials, metrics) == {"a": 0.4, "b": 0.2}
    assert best(trials, {"a": 0.6, "b": 2.0}, metrics) == 0.2  # 5/6 + 2/3 against 1 + 1/3


def test_a_value_that_is_not_a_number_is_never_chosen() -> None:
    trials = [trial(0.2, {"b": math.nan}), trial(0.4, {"b": 9.0}), trial(0.6, {"b": math.inf})]
    assert best(trials, {"b": 2.0}, {"b": LOSS}) == 0.4
    assert each(trials, {"b": LOSS}) == {"b": 0.4}


def test_as_good_as_the_experts_is_one() -> None:
    values = {"a": 0.7, "b": 2.5}
    assert mean_normalized(values, values, {"a": ACCURACY, "b": LOSS}) == pytest.approx(1.0)


def test_a_grid_tries_every_combination_the_last_key_fastest() -> None:
    asked = []

    def validate(candidate: Candidate) -> dict[str, Score]:
        asked.append(dict(candidate))
        return trial(candidate["scaling"], {"a": candidate["scaling"]}).validation

    grid = Grid({"density": [0.1, 0.2], "scaling": [0.5, 0.3]})
    trials = grid.trials(validate)
    pairs = [(0.1, 0.5), (0.1, 0.3), (0.2, 0.5), (0.2, 0.3)]
    assert asked == [{"density": density, "scaling": scaling} for density, scaling in pairs]
    assert [one.candidate for one in trials] == asked
    assert len(trials) == grid.evaluations
    assert shared(trials, {"a": 1.0}, {"a": ACCURACY}).candidate == {"density": 0.1, "scaling": 0.5}
