"""Every recipe runs, tiny: on a random model of its architecture and made-up data of the hub's form."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from saft import config
from saft.dry_run import tiny_run
from saft.experiment.run_config import RunConfig
from saft.run import run

pytestmark = pytest.mark.slow  # a whole run each

CONFIGS = Path(__file__).parent.parent.parent / "configs"
RECIPES = sorted(file for file in CONFIGS.glob("*.yaml") if "task" not in config.read(file))
PARTS = ("clip-8", "clip-14")  # of clip-20
# One of those that differ in their names, numbers of tasks and merges alone.
RUN = (
    "clip-8",
    "soup",
    "wise",
    "mergebench-3b",
    "glue-roberta",
    "glue-gpt2",
    "glue-flan-t5",
    "vision",
    "language",
)


def short(file: Path, folder: Path) -> RunConfig:
    """Return a recipe of its first two tasks, its last arm and its first merge."""
    content = config.read(file)
    content["tasks"] = dict(list(content["tasks"].items())[:2])
    content["arms"] = dict(list(content["arms"].items())[-1:])
    for keys in content["arms"].values():
        if "experts" in keys:
            keys["experts"] = {task: keys["experts"][task] for task in content["tasks"]}
    content["expected"] = {}
    content["merges"] = dict(list(content["merges"].items())[:1])
    content["out"] = str(folder / file.stem)
    return config.parse(RunConfig, content, str(file))


@pytest.mark.parametrize("name", RUN)
def test_the_recipe_runs(name: str, tmp_path: Path) -> None:
    recipe = short(CONFIGS / f"{name}.yaml", tmp_path)
    result = run(recipe, tiny=True)
    assert result.folder == tmp_path / f"{name}-tiny"
    assert [cell.arm for cell in result.results.cells] == list(recipe.arms)
    for cell in result.results.cells:
        for merge in cell.merges.values():
            assert merge.shared.held_out.keys() == recipe.held_out.keys()
    assert result.page.is_file()


@pytest.mark.parametrize(
    "file", [file for file in RECIPES if file.stem not in PARTS], ids=lambda file: file.stem
)
def test_every_task_of_the_recipe_can_be_read(file: Path, tmp_path: Path) -> None:
    plain = config.read(file) | {"out": str(tmp_path / "run")}
    made = tiny_run(config.parse(RunConfig, plain, str(file)))
    assert made.tasks.keys() == plain["tasks"].keys()
    check = run(dataclasses.replace(made, arms=dict(list(made.arms.items())[:1])), check_only=True)
    assert check.experts == len(made.tasks)
    assert made.expected == {}


def test_the_sets_of_clip_are_parts_of_the_largest() -> None:
    largest = config.read(CONFIGS / "clip-20.yaml")["tasks"]
    for name, count in (("clip-8", 8), ("clip-14", 14)):
        assert config.read(CONFIGS / f"{name}.yaml")["tasks"] == dict(list(largest.items())[:count])


def test_an_arm_with_choices_keeps_two_values_of_each_and_few_steps(tmp_path: Path) -> None:
    recipe = short(CONFIGS / "glue-gpt2.yaml", tmp_path)
    choices = {
        "steps": [300, 400],
        "learning_rate": [1e-5, 2e-5, 4e-5],
        "schedule": ["linear"],
        "perturbation": {"rho": [1]},
    }
    more = {
        "arms": {
            "sam": {"perturbation": {"name": "sam"}, "choices": choices},
            "longer": {"choices": {"steps": [300, 400]}},
        },
        "selection": {"arm_passes": 900},
    }
    plain = dataclasses.asdict(recipe) | more
    made = tiny_run(config.parse(RunConfig, plain, ""))
    assert [trial.values for trial in made.trials_of("sam")] == [
        {"learning_rate": 1e-5, "schedule": "linear", "perturbation.rho": 1},
        {"learning_rate": 2e-5, "schedule": "linear", "perturbation.rho": 1},
    ]
    assert [made.training_of(trial).steps for trial in made.trials_of("longer")] == [2]
