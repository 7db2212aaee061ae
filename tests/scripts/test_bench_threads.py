"""`scripts/bench threads` runs and prints both figures of each setting; what they are is not asserted."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_both_figures_of_each_setting(
    load_bench: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "threads.json"
    bench = load_bench("threads")
    words = ["--rounds=1", "--steps=1", "--settings", "saft", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["threads", *words])
    monkeypatch.setattr(bench, "measure", functools.cache(bench.measure))  # one process is enough here
    bench.main()
    assert "beside a busy process" in capsys.readouterr().out
    measured = json.loads(file.read_text())["seconds"]
    assert {
        name: {where: len(steps) for where, steps in both.items()} for name, both in measured.items()
    } == {
        "saft": {"alone": 1, "busy": 1},
    }
