"""`saft run --status FOLDER`: which cells are done, at work, failed, missing."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from saft.cli import main
from saft.errors import UserError
from saft.experiment import status as module
from saft.experiment.claims import ClaimFolder
from saft.experiment.folder import ExperimentFolder
from saft.experiment.status import status
from saft.tasks import Score


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """An experiment of four cells: done, at work, failed and untouched."""
    folder = ExperimentFolder(tmp_path / "run")
    cells = [f"all/{arm}/seed0" for arm in ("done", "at_work", "failed", "untouched")]
    folder.write_steps({cell: [f"{cell}/a", f"{cell}/b"] for cell in cells})
    for name in (f"{cells[0]}/a", f"{cells[0]}/b", f"{cells[3]}/a"):
        folder.remember(name, {}, Score(0.5, None, 9))
    claims = ClaimFolder(folder.path)
    claims.offer(cells)
    for cell, state in zip(cells, ("finished", "at work", "failed"), strict=False):
        claim = claims.take()
        assert claim is not None
        assert claim.cell == cell
        claims.put(claim.next(state, problems=["training diverged"] if state == "failed" else []))
    return folder.path


def test_each_cell_is_told_with_where_and_why(begun: Path) -> None:
    told = status(begun)
    assert told.runs is None
    assert told.done == ["all/done/seed0"]
    here = f"begins (process {os.getpid()} on {socket.gethostname()}, heard of 0 seconds ago)"
    assert told.at_work == {"all/at_work/seed0": here}
    assert told.failed == {"all/failed/seed0": "training diverged"}
    assert told.missing == {"all/untouched/seed0": (1, 2)}
    assert str(told) == "\n".join(
        [
            f"{begun}: 4 cells; no saft run is at work in it",
            "done: 1",
            "at work: 1",
            f"    all/at_work/seed0: {here}",
            "failed: 1",
            "    all/failed/seed0: training diverged",
            "missing: 1",
            "    all/untouched/seed0: 1 of 2 figures",
        ]
    )


def test_a_cell_is_done_whoever_died_over_it_before(begun: Path) -> None:
    claims, folder = ClaimFolder(begun), ExperimentFolder(begun)
    claims.update(dataclasses.replace(claims.latest()["all/at_work/seed0"], born="long ago"))
    assert "has died" in status(begun).at_work["all/at_work/seed0"]
    for name in ("a", "b"):
        folder.remember(f"all/at_work/seed0/{name}", {}, Score(0.5, None, 9))
    assert status(begun).done == ["all/done/seed0", "all/at_work/seed0"]


def test_a_clock_that_is_ahead_is_told(begun: Path) -> None:
    """As of a machine whose clock is ten minutes off."""
    claims = ClaimFolder(begun)
    file = claims.file(claims.latest()["all/at_work/seed0"])
    ahead = time.time() + 600
    os.utime(file, (ahead, ahead))
    told = status(begun).at_work["all/at_work/seed0"]
    assert re.search(r"heard of at a time (600|59\d) seconds ahead of this machine's clock", told), told


def test_a_failure_without_a_word_is_told(begun: Path) -> None:
    claims = ClaimFolder(begun)
    claims.put(claims.latest()["all/failed/seed0"].next("failed", problems=[""]))
    assert status(begun).failed == {"all/failed/seed0": "it does not say why"}


@pytest.mark.parametrize("text", ["", '{"cell": "all/at_w', "{}", "[]"])
def test_a_claim_that_is_cut_off_is_told_as_what_it_is(begun: Path, text: str) -> None:
    claims = ClaimFolder(begun)
    file = claims.file(claims.latest()["all/at_work/seed0"])
    file.write_text(text)
    told = status(begun).at_work["all/at_work/seed0"]
    assert told.startswith(f"its claim claims/{file.name} is empty or cut off (0 seconds old): ")
    assert told.endswith("; `saft run` has the cell computed once it is so for 120 seconds")


def test_of_many_cells_some_are_shown(begun: Path) -> None:
    names = {f"all/arm/seed{seed}": ["x"] for seed in range(module.SHOWN + 3)}
    ExperimentFolder(begun).write_steps(names)
    assert str(status(begun)).splitlines()[-1] == "    and 3 more"


def test_a_folder_that_holds_no_experiment_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no experiment .*begun; begin it, or name the folder that is its `out`"
    ):
        status(tmp_path)


def test_who_is_at_work_is_told(begun: Path) -> None:
    with ExperimentFolder(begun).locked():
        told = status(begun)
    assert told.runs == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.slow
def test_on_the_command_line_a_folder_stands_for_its_config(finished: Path, capsys: Any) -> None:
    assert main(["run", "--status", str(finished)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{finished}: 1 cells; no saft run is at work in it",
        "done: 1",
        "at work: 0",
        "failed: 0",
        "missing: 0",
    ]
    claims = ClaimFolder(finished)  # as a call has left them that was killed
    claims.offer(["all/arm/seed0"])
    assert claims.take() is not None
    assert main(["run", str(finished)]) == 0  # goes on with it: there is nothing to do
    assert not (finished / "claims").exists()
    assert f"report: {finished}" in capsys.readouterr().out
    for folder in (finished.parent, finished / "figures"):
        assert main(["run", "--status", str(folder)]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert f"{folder}: holds no config.yaml, so `saft run` has not written it; name its config" in told
        assert f"did you mean {finished}?" in told
