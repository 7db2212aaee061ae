"""Every recipe runs, tiny: on a random model of its architecture and made-up data of the hub's form."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from saft import config
from saft.dry_run import tiny_run
from saft.errors import UserError
from saft.experiment.published_figures import Expected
from saft.experiment.run_config import RunConfig
from saft.report.expected import expected_figures
from saft.run import run

pytestmark = pytest.mark.slow  # whole runs

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CONTENTS = {file.stem: config.read(file) for file in sorted(CONFIGS.glob("*.yaml"))}
RECIPES = [name for name, content in CONTENTS.items() if "task" not in content]
PARTS = ("clip-8", "clip-14")  # of clip-20
MOST = 12  # trainings of a run in one piece
Cut = tuple[slice, slice, slice]  # what is run of the tasks, arms and merges
WHOLE = (slice(None), slice(None), slice(None))
ALL_TASKS = (slice(None), slice(-1, None), slice(None))
ALL_ARMS = (slice(2), slice(None), slice(1))


def pieces(name: str) -> list[Cut]:
    """Return the pieces in which a recipe is run: every task, every arm and every merge is in one of them."""
    content = CONTENTS[name]
    if len(content["tasks"]) * len(content["arms"]) <= MOST:
        return [WHOLE]
    return [ALL_TASKS, ALL_ARMS]


def short(name: str, cut: Cut, folder: Path) -> RunConfig:
    """Return a piece of a recipe."""
    file = CONFIGS / f"{name}.yaml"
    content = config.read(file) | {"expected": {}, "out": str(folder / name)}
    for key, part in zip(("tasks", "arms", "merges"), cut, strict=True):
        content[key] = dict(list(content[key].items())[part])
    for arm in content["arms"].values():
        if "experts" in arm:
            arm["experts"] = {task: arm["experts"][task] for task in content["tasks"]}
    return config.parse(RunConfig, content, str(file))


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        pytest.param(name, cut, id=f"{name}-{number}")
        for name in RECIPES
        if name not in PARTS
        for number, cut in enumerate(pieces(name))
    ],
)
def test_the_recipe_runs(name: str, cut: Cut, tmp_path: Path) -> None:
    recipe = short(name, cut, tmp_path)
    result = run(recipe, tiny=True)
    assert result.folder == tmp_path / f"{name}-tiny"
    assert [cell.arm for cell in result.results.cells] == list(recipe.arms)
    for cell in result.results.cells:
        for merge in cell.merges.values():
            assert merge.shared.held_out.keys() == recipe.held_out.keys()
        assert cell.merges.keys() == recipe.merges.keys()
        assert cell.experts.keys() == recipe.tasks.keys()
    assert result.page.is_file()


def test_the_sets_of_clip_are_parts_of_the_largest() -> None:
    largest = config.read(CONFIGS / "clip-20.yaml")["tasks"]
    for name, count in (("clip-8", 8), ("clip-14", 14)):
        assert config.read(CONFIGS / f"{name}.yaml")["tasks"] == dict(list(largest.items())[:count])


def test_merges_are_tried_at_few_coefficients_and_with_few_iterations(tmp_path: Path) -> None:
    more = {"merges": {"wudi": {"choices": {"iterations": [100, 200]}}, "ties": {"scaling": [0.1, 0.2, 0.3]}}}
    more["merges"]["tsv_m"] = {}
    plain = dataclasses.asdict(short("glue-gpt2", ALL_ARMS, tmp_path)) | more
    made = tiny_run(config.parse(RunConfig, plain, "")).merges
    assert made["wudi"].parameters == {"iterations": 2}
    assert made["wudi"].choices == {}
    assert made["ties"].parameters == {}
    assert made["ties"].scaling == [0.1, 0.2]
    assert len(made["tsv_m"].scaling) == 2  # of its own grid


def test_an_arm_with_choices_keeps_two_values_of_each_and_few_steps(tmp_path: Path) -> None:
    recipe = short("glue-gpt2", ALL_ARMS, tmp_path)
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


def test_devices_that_this_machine_may_lack_are_not_asked_for(tmp_path: Path) -> None:
    recipe = dataclasses.replace(short("mergebench-3b", ALL_ARMS, tmp_path), arms={"adamw": {}})
    trainer = {"accelerator": "gpu", "devices": 8, "strategy": "fsdp", "precision": "bf16-mixed"}
    made = tiny_run(config.parse(RunConfig, dataclasses.asdict(recipe) | {"trainer": trainer}, ""))
    assert made.trainer == {"precision": "bf16-mixed"}


def test_the_folder_of_another_configs_dry_run_is_named_and_the_cure(tmp_path: Path) -> None:
    gpt2, roberta = (
        dataclasses.replace(short(name, (slice(1), slice(1), slice(1)), tmp_path), out=str(tmp_path / "run"))
        for name in ("glue-gpt2", "glue-roberta")
    )
    run(gpt2, tiny=True)
    for other in (
        roberta,
        dataclasses.replace(gpt2, arms={name: {"learning_rate": 1.0} for name in gpt2.arms}),
    ):
        with pytest.raises(
            UserError, match=r"run-tiny: holds the dry run of another config.* Delete it, since"
        ):
            run(other, tiny=True)
    run(gpt2, tiny=True)  # its inputs are as they were


def test_published_figures_are_shown_and_not_compared(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        short("glue-roberta", (slice(1), slice(1), slice(1)), tmp_path),
        expected={"average": Expected("average", 51.0, 3.0, "a paper")},
    )
    (figure,) = expected_figures(run(recipe, tiny=True).results)
    assert figure.outcome == "not comparable"
    assert figure.ours is not None
