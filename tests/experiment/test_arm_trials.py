"""Arms with `choices`: which trials there are, what they are called, and what is wrong with them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from saft import config
from saft.config import name_problem
from saft.errors import UserError
from saft.experiment.arm_trials import ArmTrial, arm_trials, drawn, with_values, without_values
from saft.experiment.resolve import Resolved, resolve
from saft.experiment.run_config import RunConfig

DATA = {"path": "csv", "files": {"train": "a.csv"}}
TASK = {"kind": "language_modeling", "data": DATA, "text": "{b}"}
MAPPING: dict[str, Any] = {
    "out": "run",
    "model": {"path": "m"},
    "tasks": {"a": TASK},
    "training": {"steps": 10},
}


def resolved(arm: dict[str, Any], **changes: Any) -> Resolved:
    return resolve(config.parse(RunConfig, MAPPING | {"arms": {"adamw": arm}} | changes, "run.yaml"))


def test_every_combination_is_a_trial_with_its_own_options() -> None:
    made = resolved({"description": "tuned", "choices": {"learning_rate": [1e-4, 2e-4], "steps": [5, 6]}})
    assert list(made.arms) == [
        "adamw--learning_rate=0.0001--steps=5",
        "adamw--learning_rate=0.0001--steps=6",
        "adamw--learning_rate=0.0002--steps=5",
        "adamw--learning_rate=0.0002--steps=6",
    ]
    options = made.arms["adamw--learning_rate=0.0002--steps=5"]
    assert (options.learning_rate, options.steps) == (2e-4, 5)
    assert {trial.arm for trial in made.trials.values()} == {"adamw"}
    assert made.description("adamw") == "tuned"


@pytest.mark.parametrize("choices", [{"perturbation.rho": [0.1, 0.2]}, {"perturbation": {"rho": [0.1, 0.2]}}])
@pytest.mark.parametrize("above", [True, False])
def test_a_dot_reaches_into_the_arm_and_into_the_common_options(choices: dict[str, Any], above: bool) -> None:
    sam = {"perturbation": {"name": "sam"}}
    made = resolved(
        {"choices": choices} | ({} if above else sam), training={"steps": 10} | (sam if above else {})
    )
    assert [options.perturbation for options in made.arms.values()] == [
        {"name": "sam", "rho": 0.1},
        {"name": "sam", "rho": 0.2},
    ]


def test_what_is_resolved_is_a_config_again() -> None:
    arm = {
        "perturbation": {"name": "sam"},
        "choices": {"perturbation": {"rho": [0.1]}, "gradient_clip": [None]},
    }
    made = resolved(arm, selection={"arm_passes": 30})
    again = resolve(config.parse(RunConfig, made.plain() | {"out": "run"}, "config.yaml"))
    assert again.plain() == made.plain()
    assert (again.arms, again.trials) == (made.arms, made.trials)


def test_a_name_stays_when_values_are_added_and_options_are_put_in_another_order() -> None:
    before = {"choices": {"steps": [5], "learning_rate": [1e-4]}}
    after = {"choices": {"learning_rate": [5e-5, 1e-4], "steps": [4, 5]}}
    assert {t.name for t in arm_trials("a", before)} < {t.name for t in arm_trials("a", after)}


def test_a_name_is_that_of_a_folder_and_of_no_other_arm() -> None:
    hostile = ["../x", "a/b", "a--b=c", "x" * 20, "", "~", "%2F", "é"]
    names = [
        ArmTrial("a", {"optimizer.name": value}).name for value in [*hostile, 1.5, True, None, 10, 10**400]
    ]
    assert len(set(names)) == len(names)
    assert all("/" not in name and name_problem(name) for name in names)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"choices": {}}, "arms.adamw.choices: must hold the values to try of each option"),
        ({"choices": None}, "arms.adamw.choices: must hold the values to try of each option"),
        ({"choices": {"steps": []}}, "arms.adamw.choices.steps: must not be empty"),
        ({"choices": {"steps": 5}}, "arms.adamw.choices.steps: must be a list of values, but is 5"),
        ({"choices": {"steps": [5, 5.0]}}, "arms.adamw.choices.steps: holds 5.0 twice"),
        ({"steps": 3, "choices": {"steps": [5]}}, "choices.steps: has a value beside `choices` already"),
        (
            {"perturbation": {"name": "sam", "rho": 1}, "choices": {"perturbation.rho": [2]}},
            "choices.perturbation.rho: has a value beside `choices` already",
        ),
        (
            {"choices": {"penalty": [None], "penalty.every": [2]}},
            "choices.penalty: holds penalty.every as well",
        ),
        ({"choices": {"stesp": [5]}}, "arms.adamw.choices.stesp: unknown key; did you mean 'steps'?"),
        ({"choices": {"perturbatoin.rho": [5]}}, "choices.perturbatoin: unknown key; did you mean 'perturb"),
        ({"choices": {"description": ["a", "b"]}}, "arms.adamw.choices.description: unknown key"),
        ({"description": "x", "choices": {"description": ["a"]}}, "choices.description: unknown key"),
        ({"choices": {"choices": [1]}}, "arms.adamw.choices.choices: unknown key"),
        ({"choices": {"steps": [5, 0]}}, "arms.adamw.choices.steps: must be at least 1, but is 0"),
        (
            {"choices": {"schedule": ["linaer"]}},
            "arms.adamw.choices.schedule: unknown value 'linaer'; did you",
        ),
        ({"choices": {"select_steps": [[1], [2]]}}, "choices.select_steps: holds [1]; values are numbers"),
        (
            {"perturbation": {"name": "sam"}, "choices": {"perturbation.rho": [0.1, -1]}},
            "arms.adamw.choices.perturbation.rho: must be at least 0, but is -1",
        ),
        (
            {"perturbation": {"name": "sam"}, "choices": {"perturbation.rhoo": [0.1]}},
            "perturbation 'sam' has no option 'rhoo'; did you mean 'rho'?",
        ),
        ({"choices": {"perturbation.rho": [0.1]}}, "arms.adamw: perturbation: `name` is missing"),
        (
            {"choices": {"steps": [*range(1, 40)], "batch_size": [*range(1, 40)]}},
            "arms.adamw.choices: 1521 combinations are too many, 1000 the most",
        ),
        (
            {"choices": {"optimizer.name": ["x" * 250]}},
            "arms.adamw.choices: too long, with the train size all, for the name of a file; choose",
        ),
    ],
)
def test_a_mistake_is_told_once_by_the_key_of_the_user(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolved(arm)
    (problem,) = caught.value.problems
    assert message in problem


def test_a_budget_draws_the_same_trials_whatever_else_is_tried() -> None:
    rates = [k / 1e5 for k in range(1, 9)]
    trials = arm_trials("a", {"choices": {"learning_rate": rates, "steps": [10, 20]}})
    passes = {trial.name: float(trial.values["steps"] or 0) for trial in trials}  # type: ignore[arg-type]

    def names(budget: float, of: list[ArmTrial] = trials, seed: int = 0) -> list[str]:
        return [trial.name for trial in drawn(of, passes, budget, seed)]

    few, more = names(60), names(120)
    assert 0 < len(few) < len(more) < len(trials)
    assert sum(passes[name] for name in few) <= 60
    assert set(few) < set(more)
    assert names(60) == few != names(60, seed=1)
    assert names(sum(passes.values())) == [trial.name for trial in trials]
    fewer = [trial for trial in trials if trial.values["learning_rate"] != rates[-1]]
    assert set(more) & {trial.name for trial in fewer} <= set(names(120, fewer))


def test_a_budget_counts_the_passes_of_one_expert() -> None:
    arm = {"choices": {"steps": [5, 10], "learning_rate": [1e-5, 2e-5]}}
    made = resolved(arm, selection={"arm_passes": 20, "arm_search": "random"}, seeds=[0, 1, 2])
    assert 2 <= len(made.arms) < 4
    assert sum(options.passes for options in made.arms.values()) <= 20
    assert len(made.cells) == 3 * len(made.arms)
    assert len(resolved(arm).arms) == 4
    search = resolved(arm, selection={"arm_passes": 20})
    assert len(search.arms) == 4  # which may be tried
    assert (made.search_of("adamw"), resolved(arm).search_of("adamw")) == (None, None)
    drawn_by = search.search_of("adamw", higher_is_better=False)
    assert drawn_by is not None
    assert (drawn_by.budget, drawn_by.higher_is_better) == (20, False)
    assert drawn_by.passes == {name: options.passes for name, options in search.arms.items()}
    with pytest.raises(
        UserError, match="arm_passes: is 8, but one trial of the arm adamw takes 10; raise it"
    ):
        resolved(arm, selection={"arm_passes": 8})
    assert list(resolved({"steps": 99}, selection={"arm_passes": 8}).arms) == ["adamw"]


def test_values_are_put_in_and_taken_out_again() -> None:
    options = {"steps": 3, "penalty": {"name": "drift", "every": 8}}
    values = {"steps": 5, "penalty.every": 4, "penalty.of.some": None}
    changed = with_values(options, values)
    assert changed == {"steps": 5, "penalty": {"name": "drift", "every": 4, "of": {"some": None}}}
    assert without_values(changed, values) == {"penalty": {"name": "drift", "of": {}}}
    assert options == {"steps": 3, "penalty": {"name": "drift", "every": 8}}


def test_the_order_is_that_of_a_product() -> None:
    trials = arm_trials("a", {"choices": {"x": [1, 2], "y": ["p", "q"]}})
    assert [tuple(trial.values.values()) for trial in trials] == [*itertools.product([1, 2], ["p", "q"])]
