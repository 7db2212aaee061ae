"""Which merges stay, by figures that are given; `tests/test_run.py` sees the folders of a whole run."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from saft import config
from saft.experiment import RunConfig
from saft.experiment.arm_trials import ArmTrial
from saft.experiment.cells import Cell, grid
from saft.experiment.disk import _remove, best_merges
from saft.experiment.figure_files import Choice, Training, ValidatedCandidate, WeightsChoice
from saft.experiment.folder import ExperimentFolder
from saft.experiment.session import Session
from saft.experiment.stages import merge_name
from saft.run import run
from saft.tasks import Metric, Score

CELLS = grid(["full"], ["plain", "sam"], [0, 1])


def session_of(values: dict[tuple[str, int, str], float], metric: Metric) -> Session:
    """A session whose experts all score 0.5, and whose merges score these values at what was chosen."""
    figures: dict[str, Any] = {}
    made: Any = SimpleNamespace(
        tasks={"t": None},
        metrics={"t": metric},
        resolved=SimpleNamespace(
            cells=CELLS,
            merges={"average": None, "ties": None},
            deciding=["average", "ties"],
            arm_of=lambda cell: cell.arm,
            trials_of=lambda arm: [ArmTrial(arm)],
        ),
        folder=SimpleNamespace(known=lambda name, kind: figures[name]),
    )
    session = cast(Session, made)
    for cell in CELLS:
        figures[f"{cell}/experts/t/training"] = Training(Score(0.5, None, 9), 2, None, "cpu")
        for method in ("average", "ties"):
            value = values.get((cell.arm, cell.seed, method), 0.2)
            curve = [
                ValidatedCandidate(0.3, {"t": Score(9.0, None, 9)}),  # not chosen: it counts for nothing
                ValidatedCandidate(0.4, {"t": Score(value, None, 9)}),
            ]
            figures[f"{merge_name(session, cell, method)}/validation"] = Choice(curve, 0.4, {"t": 0.4})
    return session


def test_the_best_of_each_arm_is_taken_over_seeds_and_methods() -> None:
    values = {("plain", 1, "ties"): 0.4, ("sam", 0, "average"): 0.3}
    assert best_merges(session_of(values, Metric("accuracy", "%"))) == {
        (Cell("full", "plain", 1), "ties"),
        (Cell("full", "sam", 0), "average"),
    }


def test_of_a_loss_the_least_is_best_and_of_equals_the_first() -> None:
    values = {("plain", 1, "ties"): 0.1}
    assert best_merges(session_of(values, Metric("loss", "nats", False))) == {
        (Cell("full", "plain", 1), "ties"),
        (Cell("full", "sam", 0), "average"),
    }


def test_what_a_killed_run_has_put_aside_goes(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    folder = tmp_path / "experts" / "all" / "colour"
    (folder.with_name(".colour.removed") / "heads").mkdir(parents=True)
    _remove(folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("neighbour", [False, True])
def test_folders_that_are_empty_then_go_too(neighbour: bool, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    folder = tmp_path / "merges" / "a+b" / "ties"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("")
    if neighbour:
        (folder.parent / "average").mkdir()
    _remove(folder)
    _remove(folder)  # a second time there is nothing to do
    assert not folder.exists()
    assert (tmp_path / "merges").exists() is neighbour
    assert (tmp_path / "kept").exists()


def test_workers_train_at_a_time(small: dict[str, Any], tmp_path: Path) -> None:
    def most(**changes: Any) -> int:
        settings = small | {"out": str(tmp_path / "run"), "seeds": [0, 1, 2], "measures": []} | changes
        return run(config.parse(RunConfig, settings, "run.yaml"), check_only=True).bytes_most

    serial, two, many = most(), most(executor="local", workers=2), most(executor="local", workers=9)
    assert two - serial == many - two > 0  # three cells, so no more than three trainings at a time
    assert (
        most(arms={"given": {"experts": dict.fromkeys(small["tasks"], small["model"]["path"])}}) < serial / 2
    )


def test_all_merges_are_kept_with_the_weighted_one_and_uploaded_and_figures_are_read_once_before(
    finished: Path, small: dict[str, Any], tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    settings = small | {"out": str(folder), "keep": ["experts", "merges"], "upload": "anna/run"}
    settings |= {"selection": {"weights": "per_task", "budget": 3}}
    known = list(folder.glob("figures/**/*.json"))
    reads: Counter[str] = Counter()
    read = ExperimentFolder._read

    def counted(self: ExperimentFolder, name: str) -> dict[str, Any]:
        reads[name] += 1
        return read(self, name)

    monkeypatch.setattr(ExperimentFolder, "_read", counted)
    checked = run(config.parse(RunConfig, settings, "run.yaml"), check_only=True)
    assert sorted(reads.values()) == [1] * len(known)
    assert hub.asked() == ["whoami"]
    model = (folder / "base" / "model.safetensors").stat().st_size
    assert checked.bytes_left == pytest.approx(model, rel=0.1)  # the weighted merge

    result = run(config.parse(RunConfig, settings, "run.yaml"))
    kept = {file.parent.name: load_file(file) for file in folder.glob("merges/**/model.safetensors")}
    assert kept.keys() == {"task_arithmetic", "task_arithmetic-per_task"}
    made = ExperimentFolder(folder).known(
        "all/adamw/seed0/merges/colour+size/task_arithmetic/weights/validation", WeightsChoice
    )
    base = load_file(folder / "base" / "model.safetensors")
    for name, merged in kept["task_arithmetic-per_task"].items():
        expected = base[name].clone()
        for task, (weight,) in made.weights.items():
            expert = load_file(folder / f"experts/all/adamw/seed0/{task}/model.safetensors")
            expected += weight * (expert[name] - base[name])
        torch.testing.assert_close(merged, expected)
    assert hub.asked()[1:] == ["whoami", "create_repo", "auth_check", "upload_folder"]
    _, (repository, names, _) = hub.calls[-1]
    assert repository == "anna/run"
    assert {"report.html", "results.json"} <= set(names)
    assert "upload" not in (folder / "config.yaml").read_text()
    assert result.tables.is_dir()

    run(config.parse(RunConfig, settings | {"keep": ["experts"], "upload": None}, "run.yaml"))
    assert not (folder / "merges/all/adamw/seed0/colour+size/task_arithmetic-per_task").exists()
