"""The files of a report."""

from __future__ import annotations

import json
import os

import pytest

from saft.report import write
from tests.report.made_up import made_up

FILES = ["report.html", "results.json"]


def test_writes_both_files_and_nothing_else(tmp_path):
    results = made_up(seeds=(0,), arms=("adamw", "sam"))
    write(results, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "results.json").read_text("utf-8")) == results


def test_writing_again_gives_the_same_bytes(tmp_path):
    results = made_up(seeds=(0, 1), arms=("adamw", "sam"))
    write(results, tmp_path / "a")
    write(json.loads((tmp_path / "a" / "results.json").read_text("utf-8")), tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    results = made_up(seeds=(0,), arms=("adamw", "sam"))
    results["cells"][0]["experts"]["tweets"]["sharpness"]["worst_case"] = float("inf")
    write(results, tmp_path)
    cell = json.loads((tmp_path / "results.json").read_text("utf-8"))["cells"][0]
    assert cell["experts"]["tweets"]["sharpness"]["worst_case"] is None


def test_an_interruption_leaves_the_old_report(tmp_path, monkeypatch):
    write(made_up(seeds=(0,), arms=("adamw", "sam")), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(made_up(seeds=(1,), arms=("adamw", "sam")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
