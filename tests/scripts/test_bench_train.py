"""scripts/bench train: that it measures between the right calls, and that all it compares do the same work."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.utils.data import DataLoader


@pytest.fixture
def bench(load_bench):
    """The script as a module."""
    return load_bench("train")


class Doubles:
    """A task whose loss is twice what it is given."""

    def loss(self, model, batch):
        return 2 * batch


def test_what_lies_between_the_warm_steps_and_the_last_is_measured(bench, monkeypatch):
    # Two unmeasured steps of 10 s, then two of 2 s, of which waiting is a quarter; of the last only the call.
    times = iter([0, 5, 10, 15, 20, 20.5, 22, 22.5, 24, 99, 100, 100])
    watch, task = bench.Watch(torch.device("cpu"), warm=2, steps=5), Doubles()
    with watch.watching(task):
        monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
        for batch in DataLoader(torch.arange(5.0), batch_size=1):
            task.loss(None, batch)
        monkeypatch.undo()
    figures = watch.figures(batch_size=8)
    assert figures.pop("peak_bytes") is None or sys.platform == "linux"
    assert figures == {"examples_per_second": 8.0 / 2, "data_share": 0.25, "losses": [0, 2, 4, 6, 8]}
    assert float(Doubles().loss(None, 3)) == 6  # and nothing is watched any more
    assert len(watch.losses) == 5


def rounds(*speeds, losses=(1.0, 0.5)):
    shared = {"data_share": 0.1, "peak_bytes": 2**20, "losses": list(losses)}
    return [{"examples_per_second": speed, **shared} for speed in speeds]


def test_medians_of_the_rounds_beside_the_loop_and_beside_adamw(bench):
    measured = {"loop": rounds(90.0, 100.0, 300.0), "adamw": rounds(80.0), "sam": rounds(50.0, 40.0, 60.0)}
    rows = bench.summarized(measured)
    assert [(row["name"], row["examples_per_second"], row["ratio"], row["ratio_adamw"]) for row in rows] == [
        ("loop", 100.0, 1.0, None),
        ("adamw", 80.0, 1.25, None),
        ("sam", 50.0, 2.0, 1.6),
    ]
    assert bench.summarized({"loop": rounds(90.0), "sam": rounds(50.0)})[1]["ratio_adamw"] is None


def test_losses_that_are_apart_are_told(bench):
    measured = {
        "loop": rounds(9.0),
        "adamw": rounds(9.0, losses=(1.0, 0.51)),
        "sam": rounds(9.0, losses=(7, 7)),
    }
    assert bench.apart(measured) == {"loop": 0.0, "adamw": pytest.approx(0.02)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--competitors", "adamw,sgd"], "unknown competitors: sgd; known: loop, trainer, adamw"),
        (["--warm", "9", "--steps", "10"], "--warm: must be at least 2, and --steps more than one above it"),
        (["--warm", "1"], "--warm: must be at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(bench, capsys, options, told):
    with pytest.raises(SystemExit):
        bench.parse(options)
    assert told in capsys.readouterr().err


def test_what_is_left_open_is_as_the_model_says_for_the_device(bench):
    on_cpu, on_gpu = (bench.parse(["--model", "vit-b32", "--device", device]) for device in ("cpu", "cuda"))
    assert (on_cpu.precision, on_cpu.workers, on_cpu.batch) == ("32-true", 0, 16)
    assert (on_gpu.precision, on_gpu.batch) == ("bf16-mixed", 128)
    assert bench.parse(["--rounds", "7"]).rounds == 7
    assert {"recomputed", "compiled"}.isdisjoint(on_cpu.competitors)  # unless they are asked for


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "workers"), [("tiny-text", "0"), ("tiny-image", "1"), ("tiny-language", "0")]
)
def test_every_competitor_trains_on_the_same_batches(bench, tmp_path, monkeypatch, capsys, model, workers):
    file = tmp_path / "train.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the script sets another; this is put back
    names = [name for name in bench.COMPETITORS if name != "compiled"]  # which takes a minute
    options = ["--model", model, "--workers", workers, "--json", str(file), "--competitors", ",".join(names)]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    assert bench.main() == 0
    figures = json.loads(file.read_text())
    assert [row["name"] for row in figures["figures"]] == names
    assert all(row["examples_per_second"] > 0 for row in figures["figures"])
    assert figures["losses_apart"].keys() == {"loop", "trainer", "adamw", "recomputed"}
    losses = figures["rounds"]["loop"][0]["losses"]
    assert len(set(losses)) == len(losses) == 5  # steps of AdamW, not of nothing
    assert "| saft train, sam (two passes) " in capsys.readouterr().out
