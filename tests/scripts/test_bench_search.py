"""scripts/bench search: every search is asked once for what it tries, and the gains are on test examples."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from saft.files.checkpoint import write_manifest
from tests.moved import moved

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("bench_search", BENCHMARKS / "search.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_search", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    """Return what a run of two tasks leaves: the base and its experts."""
    shutil.copytree(tiny_model, tmp_path / "base")
    for seed, name in enumerate(tiny_tasks):
        expert = moved(tiny_model, tmp_path / "experts/all/adamw/seed0" / name, seed)
        write_manifest(expert, {"tasks": {name: tiny_tasks[name]}})
    return tmp_path


@pytest.mark.slow
def test_every_search_stands_in_the_table(
    bench: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "search.json"
    words = [str(folder), "--cell", "all/adamw/seed0", "--examples", "6", "--test-examples", "20"]
    words += ["--budget", "6", "--weights", "4", "--methods", "average,task_arithmetic", "--json", str(out)]
    options = bench.parse(words)
    monkeypatch.setattr(bench, "parse", lambda: options)
    bench.main()
    rows = {row["search"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [
        "every grid",
        "halving (saft suggest)",
        "TPE",
        "task arithmetic's grid",
        "its weights, per_task",
        "its weights, per_layer",
    ]
    assert rows["every grid"]["evaluations"] == 11
    assert rows["every grid"]["validation"] >= rows["task arithmetic's grid"]["validation"]
    assert rows["halving (saft suggest)"]["evaluations"] <= 6
    assert rows["its weights, per_task"]["evaluations"] == 4
    assert rows["its weights, per_layer"]["evaluations"] == 8
    assert all(len(row["gain"]) == 10 for row in rows.values())
    assert not any(rows["every grid"]["gain"])
    assert "task_arithmetic, weights" in capsys.readouterr().out
