"""Several processes of one machine: the same figures as one process, also when one of them is killed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.claims import Claims
from saft.experiment.executors import local
from saft.run import run


@pytest.fixture(scope="module")
def grid(small: dict[str, Any]) -> dict[str, Any]:
    slow = {"steps": 40, "batch_size": 4, "learning_rate": 1e-3}
    return small | {"arms": {"quick": {**slow, "steps": 2}, "slow": slow}, "seeds": [0, 1]}


@pytest.fixture(scope="module")
def serial(grid: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "run"
    run(config.parse(RunConfig, grid | {"out": str(folder)}, "run.yaml"))
    return folder


def load(grid: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    return config.parse(RunConfig, grid | {"out": str(out), "executor": "local", **changes}, "run.yaml")


def figures(folder: Path) -> dict[str, str]:
    """Return every file of figures without the seconds, and the bytes of every model."""
    texts = {
        str(file.relative_to(folder)): re.sub(r'"seconds": [^,}]+', "", file.read_text())
        for file in sorted((folder / "figures").rglob("*.json"))
    }
    models = {
        str(file.relative_to(folder)): file.read_bytes().hex()
        for file in sorted(folder.rglob("*.safetensors"))
    }
    return texts | models


def test_two_workers_find_the_same_bits_as_one_process(
    grid: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    result = run(load(grid, tmp_path / "run"))
    assert figures(tmp_path / "run") == figures(serial)
    assert len(result.results.cells) == 4
    assert not (tmp_path / "run/claims").exists()


def test_a_killed_worker_is_replaced_and_its_cell_gone_on_with(
    grid: dict[str, Any], serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder, killed = tmp_path / "run", []
    running = local.Processes.running

    def kill_one(self: local.Processes) -> int:
        for claim in Claims(folder).latest().values() if not killed else ():
            if claim.state == "at work" and "/slow/" in claim.cell and claim.done > 0:
                os.kill(claim.process, signal.SIGKILL)
                killed.append(claim)
        return running(self)

    monkeypatch.setattr(local.Processes, "running", kill_one)
    monkeypatch.setattr(local, "EVERY", 0.05)
    run(load(grid, folder))
    assert len(killed) == 1
    assert f"{killed[0].cell}: process {killed[0].process} on " in capsys.readouterr().err
    assert figures(folder) == figures(serial)


def test_cells_that_fail_are_told_together_and_the_others_are_computed(
    grid: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    arms = grid["arms"] | {"wild": {"steps": 12, "batch_size": 4, "learning_rate": 1e30}}
    with pytest.raises(UserError) as caught:
        run(load(grid, tmp_path / "run", arms=arms))
    first, second = sorted(caught.value.problems)
    assert first.startswith("all/wild/seed0: ")
    assert second.startswith("all/wild/seed1: ")
    assert "training diverged" in first
    assert figures(tmp_path / "run").items() >= figures(serial).items() - _best_merges(serial)
    # Without what fails, it is finished at once.
    run(load(grid, tmp_path / "run"))
    assert figures(tmp_path / "run").keys() == figures(serial).keys()


def _best_merges(folder: Path) -> set[tuple[str, str]]:
    """Return the merges that a finished run leaves, which one that failed has not come to."""
    return {item for item in figures(folder).items() if item[0].startswith("merges/")}


def test_an_interrupt_ends_the_workers_and_the_run_goes_on(
    grid: dict[str, Any], serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    running = local.Processes.running
    crews: list[local.Processes] = []

    def interrupt(self: local.Processes) -> int:
        crews.append(self)
        if any(claim.done > 0 for claim in Claims(folder).latest().values()):
            raise KeyboardInterrupt
        return running(self)

    monkeypatch.setattr(local.Processes, "running", interrupt)
    monkeypatch.setattr(local, "EVERY", 0.05)
    with pytest.raises(KeyboardInterrupt):
        run(load(grid, folder))
    assert all(worker.exitcode == 0 for worker in crews[-1].workers)
    assert {claim.state for claim in Claims(folder).latest().values()} <= {"released", "finished"}
    monkeypatch.undo()
    run(load(grid, folder))
    assert figures(folder) == figures(serial)


@pytest.fixture(autouse=True)
def _no_notes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.progress._noted", set())


def test_workers_and_executor_are_not_what_figures_rest_on(
    grid: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    results = json.loads((serial / "results.json").read_text())
    assert results["config"]["executor"] == "serial"
    again = config.parse(
        RunConfig, grid | {"out": str(serial), "executor": "local", "workers": 3}, "run.yaml"
    )
    before = figures(serial)
    run(again)
    assert figures(serial) == before
