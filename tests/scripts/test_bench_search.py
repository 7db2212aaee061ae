"""scripts/bench search: every search is asked once for what it tries, and the gains are on test examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bench(load_bench: Callable[[str], Any]) -> Any:
    return load_bench("search")


@pytest.mark.slow
def test_every_search_stands_in_the_table(
    bench: Any, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished_run / "search.json"
    words = [str(finished_run), "--cell", "all/adamw/seed0", "--examples", "6", "--test-examples", "20"]
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
