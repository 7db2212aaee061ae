"""The benchmark of the optimizer: its competitors take the steps they should, its figures are what they say."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parent.parent / "scripts" / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return an importer of the benchmark's files."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def stepped(competitor: Any) -> tuple[list[Tensor], int, int]:
    """Take two steps; return the weights, and how many passes there were, in all and outside `alone`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    inputs, alone = torch.randn(5, 3), [False]
    passes = []
    _, step = competitor.build(model)

    @contextlib.contextmanager
    def on_its_own() -> Any:
        alone[0] = True
        yield
        alone[0] = False

    def backward() -> None:
        passes.append(alone[0])
        with torch.enable_grad():
            model(inputs).square().sum().backward()

    for _ in range(2):
        step(backward, on_its_own)
    return [p.detach() for p in model.parameters()], len(passes), passes.count(False)


def test_every_competitor_takes_its_passes_and_reduces_the_last(bench: Any) -> None:
    for name, competitor in bench("sam_competitors").COMPETITORS.items():
        if name.startswith("pytorch-optimizer"):
            continue
        _, n_passes, n_reduced = stepped(competitor)
        assert (n_passes, n_reduced) == (2 * competitor.passes, 2), name


@pytest.mark.parametrize("other", ["davda54", "pytorch-optimizer"])
@pytest.mark.parametrize("ours", ["saft-sam", "saft-asam"])
def test_those_compared_compute_the_same(ours: str, other: str, bench: Any) -> None:
    if other == "pytorch-optimizer":
        pytest.importorskip("pytorch_optimizer")
    competitors = bench("sam_competitors").COMPETITORS
    expected, *passes = stepped(competitors[ours])
    found, *others = stepped(competitors[other + ("-adaptive" if ours == "saft-asam" else "")])
    assert passes == others
    for weight, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(weight, theirs, rtol=1e-5, atol=1e-7)


def test_the_figures_are_differences_from_the_floor_of_as_many_passes(bench: Any) -> None:
    def seconds(total: float, passes: float) -> dict[str, list[float]]:
        return {"total": [total, total + 2], "passes": [passes, passes + 2], "base": [0.5, 1.5]}

    def facts(copies: float) -> dict[str, Any]:
        return {"peak_bytes": 4000 * copies, "checkpoint_bytes": 8000, "reductions": 1}

    results = {
        "versions": {"n_parameters": 1000},
        "seconds": {
            "adamw": seconds(4, 3),
            "floor": seconds(7, 6),
            "saft-sam": seconds(8, 6.5),
            "saft-momentum": seconds(4.5, 3),
        },
        "facts": {"adamw": facts(4), "floor": facts(4), "saft-sam": facts(5), "saft-momentum": facts(4)},
    }
    sam = bench("sam").figures("saft-sam", results)
    assert (sam["milliseconds_min"], sam["milliseconds_median"]) == (8000, 9000)
    assert (sam["ratio_min"], sam["ratio_median"]) == (2.0, 9 / 5)
    assert (sam["beyond_floor_min"], sam["beyond_floor_median"]) == (2.0, 1.0)
    assert (sam["outside_passes_min"], sam["outside_passes_median"]) == (1.0, 0.5)
    assert (sam["memory_beyond"], sam["checkpoint_beyond"]) == (1.0, 0.0)
    assert bench("sam").figures("saft-momentum", results)["beyond_floor_min"] == 1.0


def test_an_unknown_competitor_is_named(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options: argparse.Namespace = bench("sam").parse(["--competitors", "saft-sam,davda54"])
    assert options.competitors == ["saft-sam", "davda54"]
    with pytest.raises(SystemExit):
        bench("sam").parse(["--competitors", "saft-sam,nobody"])
    assert "unknown competitors: nobody; known: adamw, floor" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_runs_to_its_table(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "tiny", "--rounds", "2", "--steps", "3", "--competitors", "saft-sam"]
    monkeypatch.setattr(sys, "argv", ["sam", *options, "--json", str(tmp_path / "sam.json")])
    bench("sam").main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "",
        "AdamW (fused)",
        "two passes + AdamW",
        "saft sam",
    ]
    results = json.loads((tmp_path / "sam.json").read_text())
    assert all(len(seconds["total"]) == 6 for seconds in results["seconds"].values())
    assert [row["reductions"] for row in results["figures"]] == [1, 2, 2]
    assert [row["reductions_alone"] for row in results["figures"]] == [1, 1, 1]
    # Beside the base optimizer's state there is the name of the perturbation and the step.
    assert all(0 <= row["checkpoint_bytes_beyond"] < 1000 for row in results["figures"])
    assert results["protocol"]["rounds"] == 2
    assert results["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize("arguments", [[], ["nothing"]])
def test_the_script_names_its_benchmarks(arguments: list[str]) -> None:
    done = subprocess.run([BENCHMARKS.parent / "bench", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: scripts/bench NAME" in done.stderr
    assert "    sam\n" in done.stderr
