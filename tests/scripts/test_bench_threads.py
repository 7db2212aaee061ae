"""`scripts/bench threads` runs and prints both figures of each setting; what they are is not asserted."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "threads.py"


@pytest.mark.slow
def test_both_figures_of_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "threads.json"
    spec = importlib.util.spec_from_file_location("bench_threads", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
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
