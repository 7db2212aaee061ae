from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.folder import ExperimentFolder, team
from saft.tasks import Score


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    assert folder.foundation("a/b") is None
    with pytest.raises(UserError, match=r"figures/a/b.json: is missing; the next `saft run` computes it"):
        folder.known("a/b", Score)
    folder.remember("a/b", {"config": {"density": 0.2}, "files": {}}, Score(0.1, None, 3))
    assert folder.known("a/b", Score) == Score(0.1, None, 3)
    assert folder.foundation("a/b") == {"config": {"density": 0.2}, "files": {}}


@pytest.mark.parametrize(
    "rests_on", [None, [""], {}, {"config": {}}, {"config": {}, "files": {"model": None}}]
)
def test_a_damaged_foundation_is_named(tmp_path: Path, rests_on: Any) -> None:
    folder = ExperimentFolder(tmp_path)
    folder.figures("a").parent.mkdir()
    folder.figures("a").write_text(json.dumps({"figures": {}, "rests_on": rests_on}))
    with pytest.raises(UserError, match=r"figures/a.json: is not a file of figures; delete it"):
        folder.foundation("a")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"figures": 1}', '{"figures": [], "rests_on": {}}', "[" * 10**5]
)
def test_a_damaged_file_of_figures_is_named(tmp_path: Path, text: str) -> None:
    folder = ExperimentFolder(tmp_path)
    folder.figures("a").parent.mkdir()
    folder.figures("a").write_text(text)
    with pytest.raises(UserError, match=r"figures/a.json: is not a file of figures; delete it"):
        folder.known("a", Score)


def test_merges_of_other_tasks_are_other_files() -> None:
    folder, cell = ExperimentFolder("run"), Cell("all", "sam", 0)
    one, more = folder.merge(cell, ["a", "b"], "ties"), folder.merge(cell, ["a", "b", "c"], "ties")
    assert one == Path("run/merges/all/sam/seed0/a+b/ties")
    assert one != more


def test_merges_of_many_tasks_have_a_name_that_a_disk_takes(tmp_path: Path) -> None:
    many = [f"{'task' * 5}_{number}" for number in range(40)]
    names = [team(many), team(many[::-1]), team(many[:-1]), team([*many[:-1], "another"])]
    assert len(set(names)) == len(names)
    folder, score = ExperimentFolder(tmp_path), Score(0.1, None, 3)
    longest = [f"{'x' * 100}", "y" * 100, "z" * 38]
    assert team(longest) == "+".join(longest), "as before, so that a finished run grows"
    for name in [*names, team(longest), team(["x" * 100] * 3), team(["名" * 33] * 3)]:
        folder.remember(f"a/{name}", {"config": {}, "files": {}}, score)
        assert folder.known(f"a/{name}", Score) == score


def test_one_run_at_a_time(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "run")
    with folder.locked():
        with pytest.raises(UserError, match="another saft works in it"), folder.locked():
            pass
        folder.refuse_strangers()  # the lock is not a stranger
    with folder.locked():
        pass


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    ExperimentFolder(tmp_path).refuse_strangers()
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty, and is not a run of saft"):
        ExperimentFolder(tmp_path).refuse_strangers()
    with pytest.raises(UserError, match="is a file"):
        ExperimentFolder(tmp_path / "letter.txt").refuse_strangers()


def test_a_place_that_may_not_be_written_to_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=r"cannot be made, since .* may not be written to"):
        ExperimentFolder(tmp_path / "new" / "run").refuse_strangers()


def test_the_trials_of_a_search_go_once_its_figures_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ExperimentFolder(tmp_path)
    folder.trials("a").parent.mkdir()
    folder.trials("a").write_text("{}")

    def full(*_: Any) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("saft.experiment.folder.write_text", full)
        with pytest.raises(UserError, match="full"):
            folder.remember("a", {}, Score(0.1, None, 3))
    assert folder.trials("a").exists()
    folder.remember("a", {}, Score(0.1, None, 3))
    assert not folder.trials("a").exists()


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"run: is a link to .*nothing, which is not there; make that folder"):
        ExperimentFolder(tmp_path / "run").refuse_strangers()


def test_what_a_run_leaves_that_was_killed_as_it_began_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".config.yaml.saft-elsewhere-12-345-ab").write_text("")
    ExperimentFolder(tmp_path).refuse_strangers()
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match="is not a run of saft"):
        ExperimentFolder(tmp_path).refuse_strangers()
