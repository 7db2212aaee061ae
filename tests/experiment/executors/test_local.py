"""Several processes of one machine: the same figures as one process, also when one of them is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment.claims import ClaimFolder
from saft.experiment.executors import local
from saft.run import run

pytestmark = pytest.mark.slow


def test_a_worker_killed_half_way_is_replaced_and_the_same_bits_come_out(
    load: Any,
    figures: Any,
    serial: Path,
    tmp_path: Path,
    kill_one: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    folder = tmp_path / "run"
    killed = kill_one(folder, local.Processes, lambda claim: "/slow/" in claim.cell and claim.done > 0)
    monkeypatch.setattr(local, "EVERY", 0.05)
    result = run(load(folder, executor="local"))
    assert len(killed) == 1
    assert f"{killed[0].cell}: process {killed[0].process} on " in capsys.readouterr().err
    assert figures(folder) == figures(serial)
    assert len(result.results.cells) == 4
    assert not (folder / "claims").exists()


def test_workers_have_processes_that_make_batches_ahead(
    load: Any, figures: Any, grid: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    quick = {"arms": {"quick": grid["arms"]["quick"]}, "seeds": [0]}
    run(load(tmp_path / "run", executor="local", workers=1, data_workers=1, **quick))
    assert {
        name for name, text in figures(tmp_path / "run").items() if text != figures(serial)[name]
    } == set()


@pytest.mark.usefixtures("forked_workers")
def test_cells_that_fail_are_told_together_and_the_others_are_computed(
    load: Any, figures: Any, grid: dict[str, Any], serial: Path, tmp_path: Path
) -> None:
    arms = {"quick": grid["arms"]["quick"]}
    wild = arms["quick"] | {"steps": 12, "learning_rate": 1e30}
    with pytest.raises(UserError) as caught:
        run(load(tmp_path / "run", executor="local", arms=arms | {"wild": wild}))
    first, second = sorted(caught.value.problems)
    assert first.startswith("all/wild/seed0: ")
    assert second.startswith("all/wild/seed1: ")
    assert "training diverged" in first
    page = (tmp_path / "run/report.html").read_text()
    assert "Not complete: all, wild, seed 1: train on colour: training diverged" in page
    # Without what fails, there is nothing left to compute.
    before = figures(tmp_path / "run")
    assert {item for item in figures(serial).items() if "quick" in item[0]} - before.items() == {
        item for item in figures(serial).items() if item[0].startswith("merges/all/quick")
    }
    run(load(tmp_path / "run", executor="local", arms=arms))
    assert {name for name in figures(tmp_path / "run").keys() - before.keys() if "figures" in name} == set()


@pytest.mark.usefixtures("forked_workers")
def test_an_interrupt_ends_the_workers_and_the_run_goes_on(
    load: Any, figures: Any, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    running = local.Processes.running
    crews: list[local.Processes] = []

    def interrupt(self: local.Processes) -> int:
        crews.append(self)
        if any(claim.done > 0 for claim in ClaimFolder(folder).latest().values()):
            raise KeyboardInterrupt
        return running(self)

    monkeypatch.setattr(local.Processes, "running", interrupt)
    monkeypatch.setattr(local, "EVERY", 0.05)
    with pytest.raises(KeyboardInterrupt):
        run(load(folder, executor="local"))
    # One that had not come to its first cell is ended by the signal itself.
    assert {worker.exitcode for worker in crews[-1].workers} <= {0, -signal.SIGTERM}
    assert {claim.state for claim in ClaimFolder(folder).latest().values()} <= {"released", "finished"}
    run(load(folder))  # whoever goes on
    assert figures(folder) == figures(serial)


def test_the_executor_is_not_what_figures_rest_on(
    load: Any, figures: Any, serial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.Processes, "start", None)  # there is nothing to start workers for
    before = figures(serial)
    run(load(serial, executor="local", workers=3))
    assert figures(serial) == before
    assert json.loads((serial / "results.json").read_text())["config"]["executor"] == "local"
