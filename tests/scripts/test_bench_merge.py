"""scripts/bench merge: that it measures every method beside the floor, and what it makes of the seconds."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.stream import engine


@pytest.fixture
def merge(load_bench):
    return load_bench("merge")


@pytest.fixture
def folders(merge, tmp_path):
    return merge.make("tiny", 2, torch.float32, tmp_path)


def test_models_are_merged_as_they_are(merge, folders, tmp_path):
    base, one, other = map(str, folders)
    plan = check(MergeConfig("average", base, [one, other]))
    moved = [tensor.float().std() for _, tensor in engine.task_vectors(plan)]
    assert all(0 < spread < 0.01 for spread in moved)
    before = [file.read_bytes() for folder in folders for file in sorted(folder.iterdir())]
    assert merge.make("tiny", 2, torch.float32, tmp_path) == folders
    assert [file.read_bytes() for folder in folders for file in sorted(folder.iterdir())] == before


def test_every_elementwise_method_is_measured(merge):
    names = merge.methods(merge.parse([]))
    assert {"average", "task_arithmetic", "ties", "pcb"} <= set(names)
    assert not {"emr", "smile"} & set(names)  # they write no single model
    assert not [name for name in names if name.startswith("mergekit")]
    assert merge.methods(merge.parse(["--methods", "ties"])) == ["ties"]


def test_mergekit_is_measured_where_it_has_the_method(merge, folders):
    asked = merge.requests(
        ["ties", "pcb"], folders, Namespace(mergekit=True, dtype="float32", device="cuda", shard_size=None)
    )
    assert list(asked) == ["read and write", "ties", "mergekit ties", "pcb"]
    assert asked["mergekit ties"]["method"]["merge_method"] == "ties"
    assert [name for name, of in asked.items() if of.get("device") == "cuda"] == ["ties", "pcb"]


def test_figures(merge, folders):
    def took(*seconds, private):
        return [{"merge": s, "process": s + 1, "again": s / 2, "private": private} for s in seconds]

    results = {
        "measured": {
            "read and write": took(1.0, 3.0, 2.0, private=10),
            "ties": took(8.0, 10.0, 12.0, private=100),
            "mergekit ties": took(44.0, 40.0, 48.0, private=300),
        }
    }
    found = merge.figures("ties", {"tool": "saft"}, results, folders)
    size = (folders[0] / "model.safetensors").stat().st_size
    assert found["passes"] == 3  # a model so small is sorted
    assert found["bytes"] == 3 * 3 * size + size
    assert found["floors_per_pass_min"] == 8.0 / 3 / 1.0
    assert found["floors_per_pass_median"] == 10.0 / 3 / 2.0
    assert found["faster_merge"] == 40.0 / 8.0
    assert found["faster_process"] == 41.0 / 9.0
    assert found["again_seconds_min"] == 4.0
    assert found["faster_again"] == 40.0 / 4.0
    assert found["of_its_memory"] == 100 / 300
    assert "faster_merge" not in merge.figures("read and write", {"tool": "copy"}, results, folders)


def test_large_is_a_set_of_options_which_others_change(merge):
    options = merge.parse(["--large", "--model", "tiny"])
    assert (options.model, options.dtype, options.shard_size, options.check) == (
        "tiny",
        "bfloat16",
        "1GB",
        True,
    )
    assert merge.methods(options) == ["task_arithmetic", "ties"]
    assert not merge.parse([]).check


def test_what_a_check_has_promised_and_a_large_merge_on_paper_are_told(merge):
    row = {
        "name": "ties",
        "check": 0.5,
        "promised_seconds": 30.0,
        "promised_private": 2**28,
        "merge_seconds_min": 40.0,
        "private_bytes": 2**27,
        "passes": 3,
        "bytes_per_second_min": 1e9,
    }
    told = merge.in_advance({"protocol": {"models": 4}, "figures": [{"name": "read and write"}, row]})
    assert (
        "ties: --check took 0.5 s and promised 30.0 s and at most 256 MiB; it took 40.0 s and 128 MiB" in told
    )
    assert (
        "4 models of 70 B weights in bfloat16 take 0.6 hours: 2.2 TB read and written" in told
    )  # 16 x 140 GB


@pytest.mark.slow
def test_run(merge, tmp_path, monkeypatch, capsys):
    file = tmp_path / "figures.json"
    words = [
        "--model",
        "tiny",
        "--models",
        "2",
        "--rounds",
        "1",
        "--methods",
        "average",
        "--check",
        "--shard-size",
        "10kB",
        "--folder",
        str(tmp_path),
        "--json",
        str(file),
    ]
    monkeypatch.setattr(sys, "argv", ["merge", *words])
    merge.main()
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert [row["name"] for row in found["figures"]] == ["read and write", "average"]
    assert all(len(measured) == 1 for measured in found["measured"].values())
    for row in found["figures"]:
        assert 0 < row["merge_seconds_min"] <= row["process_seconds_min"]
        assert f"| {row['name']} " in printed
        assert ("again_seconds_min" in row) == (row["tool"] == "saft")
        if sys.platform == "linux":
            assert row["private_bytes"] > 0
    assert row["promised_seconds"] > 0
    assert "average: --check took " in printed
    folder = tmp_path / "tiny-float32-10kB"
    assert len(list((folder / "base").glob("*.safetensors"))) > 2
    assert not (folder / "out").exists()
