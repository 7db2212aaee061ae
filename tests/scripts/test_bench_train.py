"""scripts/bench train: that it measures between the right calls, and that all it compares can train."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("bench_train", BENCHMARKS / "train.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_train", module)
    spec.loader.exec_module(module)
    return module


def test_what_lies_between_the_warm_steps_and_the_last_is_measured(bench, monkeypatch):
    # Two unmeasured steps of 10 s, then two of 2 s, of which a batch takes a quarter; of the last only the call.
    times = iter([0, 5, 10, 15, 20, 20.5, 22, 22.5, 24, 99])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    watch = bench.Watch(lambda indices: f"batch of {indices}", torch.device("cpu"), warm=2, steps=5)
    assert [watch([number]) for number in range(5)][3] == "batch of [3]"
    figures = watch.figures(batch_size=8)
    assert figures == {"examples_per_second": 8.0 / 2, "data_share": 0.25, "peak_bytes": None}


def test_medians_of_the_rounds_beside_the_loop(bench):
    def rounds(*speeds):
        return [{"examples_per_second": speed, "data_share": 0.1, "peak_bytes": 2**20} for speed in speeds]

    rows = bench.summarized({"loop": rounds(90.0, 100.0, 300.0), "sam": rounds(50.0, 40.0, 60.0)})
    assert [(row["name"], row["examples_per_second"], row["ratio"]) for row in rows] == [
        ("loop", 100.0, 1.0),
        ("sam", 50.0, 2.0),
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--competitors", "adamw,sgd"], "unknown competitors: sgd; known: loop, trainer, adamw"),
        (["--warm", "9", "--steps", "10"], "--steps: must be more than one above --warm"),
    ],
)
def test_what_cannot_be_measured_is_refused(bench, capsys, options, told):
    with pytest.raises(SystemExit):
        bench.parse(options)
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_competitor_trains(bench, tmp_path, monkeypatch, capsys):
    file = tmp_path / "train.json"
    sizes = ["--model", "tiny", "--rounds", "1", "--warm", "1", "--steps", "4"]
    monkeypatch.setattr(sys, "argv", ["train", *sizes, "--json", str(file)])
    bench.main()
    found = json.loads(file.read_text())
    assert [row["name"] for row in found["figures"]] == list(bench.COMPETITORS)
    assert all(row["examples_per_second"] > 0 for row in found["figures"])
    assert "| saft train, sam " in capsys.readouterr().out
