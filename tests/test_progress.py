from __future__ import annotations

import pytest
from rich.console import Console

from saft import progress


def test_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.waiting("loading"), progress.bar(total=4) as shown:
        shown.stage("training")
        shown.advance(2)
        shown.at(3, 4)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_stage_share_and_estimate_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=100, record=True)
    monkeypatch.setattr(progress, "Console", lambda **_: screen)
    with progress.bar(total=4) as shown:
        shown.stage("training adamw")
        shown.advance(1)
    text = screen.export_text()
    assert "training adamw" in text
    assert "25%" in text
    assert ":" in text  # the time left
