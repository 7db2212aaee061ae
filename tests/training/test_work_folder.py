"""The work folder of a training is one process's at a time, and the next goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saft.training.work_folder import LAST, work_folder


@pytest.mark.parametrize("ends", ["well", "interrupted"])
def test_one_that_was_taken_for_dead_and_comes_back_does_not_harm_the_next(tmp_path: Path, ends: str) -> None:
    """A worker that woke, and was told to end, removed the folder in which its successor trained."""
    sleeper, next_one = (work_folder(tmp_path / "out", "basis") for _ in range(2))
    slept = sleeper.__enter__()
    (slept / "metrics.csv").write_text("step\n")
    work = next_one.__enter__()
    assert (work / "metrics.csv").is_file()
    assert not slept.exists()
    slept.mkdir()  # as it writes its checkpoint
    (slept / LAST).write_text("step 200")
    error = KeyboardInterrupt() if ends == "interrupted" else None
    sleeper.__exit__(error and type(error), error, None)
    assert (work / "metrics.csv").is_file()
    assert not (work / LAST).exists()
    next_one.__exit__(None, None, None)
    assert not work.exists()


def test_what_rests_on_the_same_is_gone_on_with_and_all_else_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saft.progress._noted", set())  # another test may have had the same note

    def interrupt(basis: str) -> None:
        interrupted = work_folder(tmp_path / "out", basis)
        (interrupted.__enter__() / LAST).write_text(basis)
        interrupted.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    interrupt("a")
    litter = tmp_path / ".out.work" / "of a process that came back"
    litter.mkdir()
    (litter / LAST).write_text("")
    with work_folder(tmp_path / "out", "a") as work:
        assert (work / LAST).read_text() == "a"
        assert [entry.name for entry in work.parent.iterdir()] == [work.name]
    assert list(tmp_path.iterdir()) == []
    assert not capsys.readouterr().err
    interrupt("a")
    with work_folder(tmp_path / "out", "b") as work:
        assert not (work / LAST).exists()
    assert ".out.work: is of another config, model or data, and removed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
