"""The steps of a cell, and a cell that runs by itself in another process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saft.errors import UserError
from saft.experiment.events import Event
from saft.experiment.session import open_session
from saft.experiment.stages import carry_out_cell, cell_steps, run_cell


def figures(folder: Path) -> dict[str, str]:
    """Return every figure of the cell, without times, which no two runs share."""
    return {
        str(file.relative_to(folder)): re.sub(r'"seconds": [0-9.e-]+', "", file.read_text())
        for file in sorted((folder / "figures/all").rglob("*.json"))
    }


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """Return an experiment of which no cell was computed."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("experts", "merges", "figures/all"):
        shutil.rmtree(folder / name)
    return folder


def test_a_cell_runs_in_a_fresh_process_from_the_folder_and_its_name(finished: Path, begun: Path) -> None:
    program = (
        "import sys; from saft.experiment.stages import run_cell; "
        "run_cell(sys.argv[1], 'all/adamw/seed0', lambda event: print(event))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(begun)], check=True, capture_output=True, text=True
    )
    assert figures(begun) == figures(finished)
    assert "all/adamw/seed0: train on colour" in told.stdout


def test_a_cell_that_is_finished_does_nothing(finished: Path) -> None:
    events: list[Event] = []
    run_cell(finished, "all/adamw/seed0", events.append)
    assert not events


def test_a_cell_that_is_not_there_is_told(finished: Path) -> None:
    with pytest.raises(UserError, match="has no cell 'all/adam/seed0'; did you mean 'all/adamw/seed0'"):
        run_cell(finished, "all/adam/seed0")


def test_the_events_add_up_to_the_costs(begun: Path) -> None:
    session = open_session(begun)
    (cell,) = session.resolved.cells
    costs = {step.words: 0.0 for step in cell_steps(session, cell)}
    cost = sum(step.cost for step in cell_steps(session, cell))
    events: list[Event] = []
    carry_out_cell(session, cell, events.append)
    assert sum(event.done for event in events) == pytest.approx(cost)
    assert all(event.done >= 0 for event in events)
    assert costs.keys() <= {event.step for event in events}


def test_every_step_says_what_it_rests_on(finished: Path) -> None:
    session = open_session(finished)
    (cell,) = session.resolved.cells
    for step in cell_steps(session, cell):
        assert session.folder.foundation(step.name) == step.rests_on
        assert step.rests_on["config"]["arms"]["adamw"]["steps"] == 2
        assert step.rests_on["files"]["model"]
        assert any(place.startswith("tasks.") for place in step.rests_on["files"])
