"""scripts/bench verdicts: what is measured on validation examples is judged by the same merges on test examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bench(load_bench: Callable[[str], Any]) -> Any:
    return load_bench("verdicts")


def test_every_guess_is_judged_on_test_examples(
    bench: Any, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished_run / "verdicts.json"
    words = [str(finished_run), "--cells", "all/adamw/seed0", "--examples", "6", "--test-examples", "20"]
    words += ["--scaling", "0.5", "--out", str(finished_run / "figures"), "--json", str(out)]
    options = bench.parse(words)
    monkeypatch.setattr(bench, "parse", lambda: options)
    bench.main()
    made = json.loads(out.read_text())
    (cell,) = made["cells"]
    assert cell["scaling"] == 0.5
    assert all(count > 6 for count in cell["examples"]["test"].values())
    assert cell["validation"]["pair_harm"].keys() == cell["test"]["pair_harm"].keys()
    assert {row["names"] for row in made["rows"]} == {"pair", "model"}
    assert made["claims"]["pairs"] == 2
    assert "drift of features" in capsys.readouterr().out

    def again(*_: object) -> None:
        raise AssertionError("the figures are there")

    monkeypatch.setattr(bench, "Bench", again)
    bench.main()


def test_a_guess_is_right_by_the_worst_and_by_the_order(bench: Any) -> None:
    truth = {"ab": 0.1, "ac": 0.4, "bc": -0.1, "cb": 0.0}
    right = bench.judged({key: 2 * value for key, value in truth.items()}, truth)
    assert (right["hit"], right["chance"], right["named"]) == (1.0, 0.25, 0.4)
    assert right["rank correlation"] == pytest.approx(1)
    wrong = bench.judged({key: -value for key, value in truth.items()}, truth)
    assert (wrong["hit"], wrong["named"]) == (0.0, -0.1)
    assert wrong["rank correlation"] == pytest.approx(-1)
    assert bench.judged(dict.fromkeys(truth, 1.0), truth)["rank correlation"] == 0.0


def test_equal_values_share_their_rank(bench: Any) -> None:
    tied = bench.judged({"a": 3.0, "b": 1.0, "c": 3.0}, {"a": 1.0, "b": 0.0, "c": 2.0})  # ranks 1.5, 0, 1.5
    assert tied["rank correlation"] == pytest.approx(0.75**0.5)


def test_a_claim_is_right_where_the_task_loses_on_test(bench: Any) -> None:
    harm = {"a": {"b": 0.3, "c": 0.2}, "b": {"a": 0.0, "c": -0.1}, "c": {"a": 0.1, "b": 0.0}}
    truth = {"a": {"b": 0.1, "c": 0.0}, "b": {"a": 0.2, "c": 0.0}, "c": {"a": 0.1, "b": 0.0}}
    sure = {task: dict.fromkeys(row, 0.01) for task, row in harm.items()}
    cell = {"validation": {"pair_harm": harm, "pair_harm_error": sure}, "test": {"pair_harm": truth}}
    cell["examples"] = {"validation": dict.fromkeys(harm, 64)}
    assert bench.claims([cell]) == {"claimed": 3, "claimed and worse": 2, "pairs": 6, "worse": 3}
