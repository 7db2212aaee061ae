"""`scripts/bench threads` runs and prints both figures of each setting; what they are is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "threads.py"


@pytest.mark.slow
def test_both_figures_of_each_setting(tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    words = ["--rounds=1", "--steps=1", "--settings", "default", "saft", "--json", str(file)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "beside a busy process" in done.stdout
    measured = json.loads(file.read_text())["seconds"]
    assert {
        name: {where: len(steps) for where, steps in both.items()} for name, both in measured.items()
    } == {
        "default": {"alone": 1, "busy": 1},
        "saft": {"alone": 1, "busy": 1},
    }
