"""The overseer: a cell is computed once, given to another where a worker dies, and given up at last."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment import worker
from saft.experiment.claims import ClaimFolder
from saft.experiment.events import Event
from saft.experiment.folder import ExperimentFolder
from saft.experiment.overseer import DEATHS, oversee
from saft.experiment.session import Session, open_session
from saft.experiment.stages import cell_steps
from saft.experiment.worker import work

pytestmark = pytest.mark.slow  # workers


class Here:
    """Workers that do what a function does, at once."""

    def __init__(self, does: Callable[[], None]) -> None:
        self.does = does
        self.started = 0
        self.has_ended = False

    def start(self, count: int) -> None:
        for _ in range(count):
            self.started += 1
            self.does()

    def running(self) -> int:
        return 0

    def end(self) -> None:
        self.has_ended = True


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Session:
    """An experiment of one cell whose merges are missing."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "figures/all/adamw/seed0/merges")
    return open_session(folder)


def have_done(session: Session, crew: Here, told: list[Event] | None = None) -> None:
    tell = (lambda event: None) if told is None else told.append
    oversee(session, session.resolved.cells, tell, crew, every=0.0, sleep=lambda seconds: None)


def test_events_add_up_to_what_was_missing(begun: Session) -> None:
    (cell,) = begun.resolved.cells
    cost = sum(step.cost for step in cell_steps(begun, cell) if not step.is_done(begun.folder))
    crew, told = Here(lambda: work(begun.folder.path)), list[Event]()
    have_done(begun, crew, told)
    assert sum(event.done for event in told) == pytest.approx(cost)
    assert all(step.is_done(begun.folder) for step in cell_steps(begun, cell))
    assert (crew.started, crew.has_ended) == (1, True)
    assert not (begun.folder.path / "claims").exists()


def test_a_cell_over_which_workers_die_is_given_up(begun: Session) -> None:
    claims = ClaimFolder(begun.folder.path)

    def die() -> None:
        claim = claims.take()
        assert claim is not None
        claims.update(dataclasses.replace(claim, born="long ago", step="train on colour"))

    crew = Here(die)
    with pytest.raises(UserError, match=f"all/adamw/seed0: {DEATHS} workers died over it.*'train on colour'"):
        have_done(begun, crew)
    assert crew.started == DEATHS
    assert claims.latest()["all/adamw/seed0"].state == "failed"
    have_done(begun, Here(lambda: work(begun.folder.path)))  # the next run tries it again


class Preempted(Here):
    """Workers of which each is ended once it has computed the figures of one step."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(self.one_step)
        self.folder, self.ended = session.folder.path, 0
        remember = ExperimentFolder.remember

        def ending(*arguments: Any) -> None:
            remember(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(ExperimentFolder, "remember", ending)

    def one_step(self) -> None:
        self.ended += 1
        with suppress(KeyboardInterrupt):
            work(self.folder)

    def running(self) -> int:
        """Return how many were there when this was asked for the last time, and have ended since."""
        ended, self.ended = self.ended, 0
        return ended


def test_workers_that_are_ended_again_and_again_come_to_the_end(
    begun: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(begun.config, "workers", 1)
    shutil.rmtree(begun.folder.path / "figures/all")
    (cell,) = begun.resolved.cells
    steps = cell_steps(begun, cell)
    crew = Preempted(begun, monkeypatch)
    have_done(begun, crew)
    assert all(step.is_done(begun.folder) for step in steps)
    assert crew.started == len(steps) + 1


def test_who_died_in_earlier_runs_is_not_counted(begun: Session) -> None:
    claims = ClaimFolder(begun.folder.path)
    claims.offer(["all/adamw/seed0"])
    claim = claims.take()
    assert claim is not None
    claims.update(dataclasses.replace(claim, born="long ago", deaths=DEATHS - 1))
    crew = Here(lambda: work(begun.folder.path))
    have_done(begun, crew)
    assert crew.started == 1


def test_workers_that_end_before_they_begin_are_told(begun: Session) -> None:
    crew = Here(lambda: None)
    crew.running = iter([0, 1] * 50).__next__  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the workers end before they have computed anything"):
        have_done(begun, crew)
    assert crew.has_ended


def test_a_machine_without_the_data_gives_its_cell_back_and_is_told(
    begun: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = begun.folder.path
    answers = [UserError("tasks.colour.data: there is no file a.csv"), open_session(folder)]

    def opened(_: object) -> Session:
        answer = answers.pop(0)
        if isinstance(answer, UserError):
            raise answer
        return answer

    monkeypatch.setattr(worker, "open_session", opened)
    have_done(begun, Here(lambda: work(folder)))
    assert "there is no file a.csv" in capsys.readouterr().err
    assert answers == []


def test_a_fault_is_told_with_its_traceback(begun: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise KeyError("colour")

    monkeypatch.setattr(worker, "carry_out_cell", fault)
    with pytest.raises(RuntimeError, match=r"(?s)all/adamw/seed0: Traceback.*KeyError: 'colour'"):
        have_done(begun, Here(lambda: work(begun.folder.path)))


def test_too_little_memory_is_told_with_its_cure(begun: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(worker, "carry_out_cell", full)
    with pytest.raises(UserError, match=r"there is not enough memory on .*; take fewer workers"):
        have_done(begun, Here(lambda: work(begun.folder.path)))
