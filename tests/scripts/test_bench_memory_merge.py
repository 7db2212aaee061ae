"""scripts/bench memory-merge: that all are asked for the same work, and what it makes of what they answer."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

TINY = ["--model", "tiny", "--models", "2", "--threads", "1"]


def test_each_tool_is_asked_for_the_same_work(load_bench, tmp_path):
    bench = load_bench("memory-merge")
    kinds = ["--kinds", "models,adapters,training", "--methods", "ties,linear,cat,slerp"]
    asked = bench.requests(bench.parse([*TINY, *kinds, "--folder", str(tmp_path)]), tmp_path)
    assert {name: [tool for other, tool in asked if other == name] for name, _ in asked} == {
        "models: linear": ["saft", "mergekit", "sentence-transformers"],
        "models: ties": ["saft", "mergekit", "sentence-transformers"],
        "adapters: cat": ["saft", "peft"],
        "adapters: linear": ["saft", "peft"],
        "adapters: ties": ["saft", "peft"],
        "training: linear": ["saft", "trl"],
        "training: slerp": ["saft", "trl"],
    }
    base, one, two = [str(tmp_path / "tiny-float32" / name) for name in ("base", "model1", "model2")]
    assert asked["models: ties", "saft"]["models"] == {"base": base, "1": one, "2": two}
    assert asked["models: linear", "mergekit"]["models"] == {"1": one, "2": two}
    assert {json.dumps(asked["models: ties", tool]["parameters"]) for tool in ("saft", "mergekit")} == {
        '{"weight": 1.0, "density": 0.2}'
    }
    assert asked["adapters: cat", "saft"]["parameters"] == {
        "method": "task_arithmetic",
        "scaling": 1.0,
        "rank": 32,  # of both adapters together
    }
    assert asked["adapters: ties", "peft"]["parameters"] == {"combination_type": "ties", "density": 0.2}
    training = asked["training: slerp", "trl"]
    assert [training[name] for name in ("base", "current", "other")] == [base, one, two]
    assert len({request["out"] for request in asked.values()}) == len(asked)


def test_figures(load_bench):
    def took(*seconds, beyond):
        return [{"seconds": one, "beyond": beyond} for one in seconds]

    key = ("ties", "mergekit")
    rows = load_bench("memory-merge").figures(
        {
            ("ties", "saft"): took(2.0, 4.0, 3.0, beyond=10),
            key: took(9.0, 5.0, 8.0, beyond=None),
        },
        {key: 1e-7},
    )
    assert rows[0] == {
        "method": "ties",
        "tool": "saft",
        "seconds_min": 2.0,
        "seconds_median": 3.0,
        "beyond_bytes": 10,
    }
    assert (rows[1]["of_saft_seconds"], rows[1]["difference"]) == (2.5, 1e-7)
    assert rows[1]["beyond_bytes"] is None


def test_the_largest_difference_is_that_of_any_tensor(load_bench, tmp_path):
    bench, one, other, third = load_bench("memory-merge"), *(tmp_path / name for name in "abc")
    save_file({"x": torch.ones(2), "y": torch.zeros(2)}, one)
    save_file({"x": torch.ones(2), "y": torch.tensor([0.0, -0.5])}, other)
    save_file({"x": torch.ones(2)}, third)
    assert bench.difference(one, other) == 0.5
    with pytest.raises(SystemExit, match="hold different tensors"):
        bench.difference(one, third)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--methods", "ties,teis"], "unknown methods: teis; known: linear, task_arithmetic, ties"),
        (["--competitors", "numpy"], "unknown competitors: numpy; known: mergekit, sentence-transformers"),
        (["--kinds", "adapter"], "unknown kinds: adapter; known: models, adapters, training"),
    ],
)
def test_what_cannot_be_measured_is_refused(load_bench, capsys, options, told):
    with pytest.raises(SystemExit):
        load_bench("memory-merge").parse(options)
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_what_saft_is_measured_at(load_bench, tmp_path):
    """mergekit is not among what tests need; what is saft's part is done here."""
    worker, make = load_bench("memory_merge_worker"), load_bench("merge_models").make
    models = {
        str(folder): worker.load(str(folder), "cpu")
        for folder in make("tiny", 2, torch.float32, tmp_path)[1:]
    }
    merged, figures = worker.measured(worker.saft(models, "linear", {"weight": 1.0}), "cpu")
    assert figures["seconds"] > 0
    if sys.platform == "linux":
        assert figures["beyond"] >= 0
    states = [model.state_dict() for model in models.values()]
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)


@pytest.mark.slow
def test_adapters_are_merged_to_the_same_numbers_as_by_peft(load_bench, tmp_path, monkeypatch, capsys):
    kinds = ["--kinds", "adapters,training", "--methods", "cat,slerp", "--competitors", "peft"]
    places = ["--folder", str(tmp_path / "models"), "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["memory-merge", *TINY, *kinds, "--rounds", "1", *places])
    load_bench("memory-merge").main()
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [(row["method"], row["tool"]) for row in figures] == [
        ("adapters: cat", "saft"),
        ("adapters: cat", "peft"),
        ("training: slerp", "saft"),
    ]
    assert figures[1]["difference"] < 1e-6
    assert "adapters: cat, peft" in capsys.readouterr().out
