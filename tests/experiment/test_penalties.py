"""Arms with a penalty in an experiment: whose inputs they read, what their figures rest on, who computes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.session import open_session
from saft.run import run

pytestmark = pytest.mark.slow  # a whole run each

ARMS = {
    "adamw": {"steps": 2, "batch_size": 4, "learning_rate": 3e-3},
    "drift": {"steps": 2, "batch_size": 4, "learning_rate": 3e-3, "penalty": {"name": "drift", "every": 1}},
    "generic": {
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "penalty": {"name": "drift", "every": 1, "inputs": "reference"},
    },
}


@pytest.fixture(scope="module")
def penalized(small: dict[str, Any], tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    other = tiny_tasks["size"] | {"max_length": 8}
    return small | {"arms": ARMS, "reference": {"other": other}, "regimes": {"few": 12}}


@pytest.fixture(scope="module")
def serial(penalized: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("penalized") / "run"
    run(config.parse(RunConfig, penalized | {"out": str(folder)}, "run.yaml"))
    return folder


def manifest(folder: Path, arm: str, task: str) -> Any:
    return json.loads((folder / f"experts/few/{arm}/seed0/{task}/saft.json").read_text())


def without_times(folder: Path) -> str:
    results = json.loads((folder / "results.json").read_text())
    del results["config"]["executor"], results["config"]["workers"]
    return re.sub(r'"(seconds|memory|device)": [^,}]+', "", json.dumps(results))


def test_each_expert_reads_the_inputs_that_its_arm_names(serial: Path) -> None:
    assert list(manifest(serial, "drift", "colour")["config"]["reference"]) == ["size"]
    assert list(manifest(serial, "drift", "size")["config"]["reference"]) == ["colour"]
    assert list(manifest(serial, "generic", "colour")["config"]["reference"]) == ["other"]
    assert manifest(serial, "adamw", "colour")["config"]["reference"] == {}
    session = open_session(serial)
    cells = {cell.arm: cell for cell in session.resolved.cells}
    read = session.inputs(cells["drift"], "colour")["size"]
    assert read.examples is session.splits("few", 0)["size"].train
    assert len(session.inputs(cells["generic"], "colour")["other"]) == 12


def test_the_report_has_the_penalty_and_its_passes(serial: Path) -> None:
    arms = json.loads((serial / "results.json").read_text())["arms"]
    assert arms["drift"]["extras"] == {"penalty": "drift (every 1)"}
    assert arms["drift"]["passes"] == pytest.approx(2 + 2 * 2 / 4 * 4 / 3)
    assert not (serial / "cache").exists()


def test_figures_rest_on_what_the_penalty_reads(serial: Path) -> None:
    session = open_session(serial)
    found = session.foundations
    cells = {cell.arm: cell for cell in session.resolved.cells}
    assert set(found.expert(cells["adamw"], "colour")["config"]["tasks"]) == {"colour"}
    assert set(found.expert(cells["drift"], "colour")["config"]["tasks"]) == {"colour", "size"}
    generic = found.expert(cells["generic"], "colour")
    assert set(generic["config"]["reference"]) == {"other"}
    assert "reference.other" in generic["files"]


@pytest.mark.usefixtures("forked_workers")
def test_workers_find_the_same_figures(serial: Path, penalized: dict[str, Any], tmp_path: Path) -> None:
    mapping = penalized | {"out": str(tmp_path / "run"), "executor": "local", "workers": 2}
    run(config.parse(RunConfig, mapping, "run.yaml"))
    assert without_times(tmp_path / "run") == without_times(serial)


@pytest.mark.usefixtures("forked_workers")
def test_a_mistake_in_a_worker_is_told(penalized: dict[str, Any], tmp_path: Path) -> None:
    arms = {"adamw": ARMS["adamw"] | {"learning_rate": 1e30, "steps": 12}}
    mapping = penalized | {"out": str(tmp_path / "run"), "executor": "local", "arms": arms}
    with pytest.raises(UserError, match="training diverged"):
        run(config.parse(RunConfig, mapping, "run.yaml"))


def test_reference_data_are_looked_at_before_anything_is_trained(
    penalized: dict[str, Any], tmp_path: Path
) -> None:
    other = penalized["reference"]["other"]
    wrong = other | {"data": other["data"] | {"text": "txt"}}
    mapping = penalized | {"out": str(tmp_path / "run"), "reference": {"other": wrong}}
    with pytest.raises(UserError, match=r"reference\.other\.data.*'txt'"):
        run(config.parse(RunConfig, mapping, "run.yaml"), check_only=True)


def test_inputs_that_are_not_there_are_told_with_all_else(penalized: dict[str, Any]) -> None:
    tasks = {"colour": penalized["tasks"]["colour"]}
    mapping = penalized | {"out": "x", "tasks": tasks, "reference": {}}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, mapping, "run.yaml")
    assert caught.value.problems == (
        "run.yaml: arms.drift.penalty: reads the inputs of the other tasks, but there is one task; add a task",
        "run.yaml: arms.generic.penalty: reads the inputs under `reference`, which is empty; list tasks there",
    )
