from __future__ import annotations

import sys

import pytest
from rich.console import Console

from saft import progress


def test_a_pipe_gets_a_line_for_each_stage_with_time_and_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    shown = progress._Written(total=4, clock=lambda: now)
    shown.stage("train a")
    now = 30.0
    shown.advance(1)
    shown.stage("train a")  # nothing new
    shown.stage("train b")
    now = 3700.0
    shown.advance(1)
    shown.advance(1)
    shown.at(8, 8)
    assert capsys.readouterr().err.splitlines() == [
        "[0:00] train a",
        "[0:30] train b (25% done, about 1:30 left)",
        "[1:01:40] train b (50% done, about 1:01:40 left)",
    ]


def test_no_bar_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.waiting("loading [a/b] ..."), progress.bar(total=0) as shown:
        shown.stage("training")
        shown.at(3, 0)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "loading [a/b] ...\n[0:00] training\n"


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_terminal_that_draws_no_bar_gets_a_line_for_each_stage(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.waiting("loading ..."), progress.bar(total=2) as shown:
        shown.stage("train a")
        shown.advance(1)
        shown.stage("train b")
        lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["loading ...", "[0:00] train a"]
    assert lines[2].startswith("[0:00] train b (50% done")


def test_stage_share_and_estimate_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=100, record=True)
    monkeypatch.setattr(progress, "_console", lambda: screen)
    with progress.bar(total=4) as shown:
        shown.stage("training [red]adamw")
        shown.advance(1)
    text = screen.export_text()
    assert "training [red]adamw" in text
    assert "25%" in text
    assert ":" in text  # the time left


def test_a_bar_of_its_own_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Bar(total=2)
    shown.stage("training")
    shown.advance(1)
    assert (shown.done, shown.total) == (1, 2)
    assert capsys.readouterr().err == ""
