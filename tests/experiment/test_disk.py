"""Which merges stay, by figures that are given; `tests/test_run.py` sees the folders of a whole run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from saft.experiment.cells import Cell, grid
from saft.experiment.disk import _remove, best_merges
from saft.experiment.figure_files import Choice, Training, ValidatedCandidate
from saft.experiment.session import Session
from saft.experiment.stages import merge_name
from saft.tasks import Metric, Score

CELLS = grid(["full"], ["plain", "sam"], [0, 1])


def session_of(values: dict[tuple[str, int, str], float], metric: Metric) -> Session:
    """A session whose experts all score 0.5, and whose merges score these values at what was chosen."""
    figures: dict[str, Any] = {}
    made: Any = SimpleNamespace(
        tasks={"t": None},
        metrics={"t": metric},
        resolved=SimpleNamespace(cells=CELLS, merges={"average": None, "ties": None}),
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
