"""Arms whose experts are shifted by the others' task vectors of a first round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.dry_run.tiny_run import tiny_run
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.run import run

COMMON = {"batch_size": 4, "learning_rate": 3e-3}
ARMS = {
    "adamw": COMMON | {"steps": 3},
    "two_rounds": COMMON
    | {"steps": 2, "perturbation": {"name": "task_vectors", "rho": 0.6}, "first_round": {"steps": 1}},
}


@pytest.fixture
def two_rounds(small: dict[str, Any]) -> dict[str, Any]:
    return small | {"arms": ARMS, "regimes": {"few": 12}}


def manifest(folder: Path, arm: str, task: str) -> Any:
    return json.loads((folder / f"experts/few/{arm}/seed0/{task}/saft.json").read_text())


@pytest.mark.slow  # two runs
def test_a_run_trains_both_rounds_and_finds_the_same_in_workers(
    two_rounds: dict[str, Any], tmp_path: Path, forked_workers: None
) -> None:
    folder = tmp_path / "run"
    run(config.parse(RunConfig, two_rounds | {"out": str(folder)}, "run.yaml"))
    results = json.loads((folder / "results.json").read_text())
    assert results["arms"]["two_rounds"]["passes"] == 3
    assert results["arms"]["two_rounds"]["extras"] == {"first_round": "steps 1"}
    others = manifest(folder, "two_rounds", "colour")["config"]["others"]
    assert [Path(other).name for other in others] == ["size"]
    assert manifest(folder, "adamw", "colour")["config"]["others"] == []
    assert not (folder / "first_rounds").exists()
    assert (folder / "figures/few/two_rounds/seed0/experts/size/first_round.json").exists()

    again = tmp_path / "again"
    side_by_side = two_rounds | {"out": str(again), "executor": "local", "workers": 2}
    run(config.parse(RunConfig, side_by_side, "run.yaml"))
    for task in ("colour", "size"):
        name = f"experts/few/two_rounds/seed0/{task}/model.safetensors"
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "figures" in path.parts}
    run(config.parse(RunConfig, two_rounds | {"out": str(folder)}, "run.yaml"))
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is computed again"


@pytest.mark.slow  # two runs
def test_experts_that_are_not_kept_are_trained_again_with_their_first_round(
    two_rounds: dict[str, Any], tmp_path: Path
) -> None:
    mapping = two_rounds | {"out": str(tmp_path / "run"), "keep": []}
    run(config.parse(RunConfig, mapping, "run.yaml"))
    assert not (tmp_path / "run" / "experts").exists()
    merges = dict(mapping["merges"]) | {"average": {}}
    run(config.parse(RunConfig, mapping | {"merges": merges, "keep": ["experts"]}, "run.yaml"))
    assert manifest(tmp_path / "run", "two_rounds", "colour")["config"]["training"]["first_round"] is None


def test_figures_rest_on_the_data_of_all_tasks(two_rounds: dict[str, Any], tmp_path: Path) -> None:
    session = _session(two_rounds, tmp_path)
    cells = {cell.arm: cell for cell in session.resolved.cells}
    found = session.foundations
    assert set(found.expert(cells["two_rounds"], "colour")["config"]["tasks"]) == {"colour", "size"}
    assert set(found.training(cells["two_rounds"], "colour")["config"]["tasks"]) == {"colour"}
    assert set(found.expert(cells["adamw"], "colour")["config"]["tasks"]) == {"colour"}


def _session(mapping: dict[str, Any], tmp_path: Path) -> Any:
    from saft.experiment.folder import ExperimentFolder
    from saft.experiment.resolve import resolve
    from saft.experiment.session import Session

    made = config.parse(RunConfig, mapping | {"out": str(tmp_path / "run")}, "run.yaml")
    return Session(resolve(made), ExperimentFolder(tmp_path / "run"))


def test_the_tiny_run_has_a_tiny_first_round(two_rounds: dict[str, Any], tmp_path: Path) -> None:
    made = config.parse(RunConfig, two_rounds | {"out": str(tmp_path / "run")}, "run.yaml")
    assert tiny_run(made).arms["two_rounds"]["first_round"]["steps"] <= 4


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"perturbation": {"name": "task_vectors"}}, "arms.two_rounds.first_round: is missing"),
        ({"first_round": {"steps": 1}}, "first_round: is only read by perturbation"),
        (
            {"perturbation": {"name": "task_vectors"}, "first_round": {"stepps": 1}},
            "first_round.stepps: unknown key; did you mean 'steps'",
        ),
        (
            {
                "perturbation": {"name": "task_vectors"},
                "first_round": {"perturbation": {"name": "task_vectors"}},
            },
            "first_round: is the first, so there are no task vectors",
        ),
    ],
)
def test_what_does_not_fit_is_told(two_rounds: dict[str, Any], arm: dict[str, Any], message: str) -> None:
    arms = {"two_rounds": COMMON | {"steps": 2} | arm}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, two_rounds | {"out": "x", "arms": arms}, "run.yaml")
    assert message in str(caught.value)


def test_one_task_has_no_others(two_rounds: dict[str, Any]) -> None:
    tasks = {"colour": two_rounds["tasks"]["colour"]}
    with pytest.raises(UserError, match="task_vectors are the other tasks', but there is one"):
        config.parse(RunConfig, two_rounds | {"out": "x", "tasks": tasks}, "run.yaml")
