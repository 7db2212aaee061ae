"""Private memory of a merge, measured in a process of its own: bounded whatever the model's size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saft.files.tensorfile import TensorWriter
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.method import Elementwise, Tensorwise
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts private memory")

MIB = 2**20
LARGEST = 32 * MIB
LAYOUT = dict.fromkeys(("a.weight", "b.weight"), (torch.float32, (LARGEST // 4096, 1024)))
LAYOUT |= {"bias": (torch.float32, (1024,))}

MEASURE = """
import ctypes, json, sys, tempfile, threading, time
import torch
from saft.merging.merge_config import MergeConfig
from saft.merging.merge_check import check
from saft.merging.outputs.record import write_merge

trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of what earlier cases have freed; glibc's

def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def sample():
    global peak
    while not done:
        peak = max(peak, private())
        time.sleep(0.002)

for line in sys.stdin:
    case = json.loads(line)
    torch.set_num_threads(case.pop("threads"))
    plan = check(MergeConfig(**case))
    if trim is not None:
        trim(0)
    peak, done = private(), False
    sampler = threading.Thread(target=sample)
    sampler.start()
    with tempfile.TemporaryDirectory() as folder:
        write_merge(plan, folder + "/out")
    done = True
    sampler.join()
    print(json.dumps([peak, plan.memory]), flush=True)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and three models of 64 MiB each; what is not drawn is a hole in the file."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b", "c")):
        (root / name).mkdir()
        writer = TensorWriter(root / name / "model.safetensors", LAYOUT)
        with pytest.raises(ValueError, match="not whole"), writer:
            writer.append("a.weight", torch.randn(MIB, generator=torch.manual_seed(seed)))
        with writer.file.open("r+b") as stream:
            stream.truncate(stream.seek(0, 2) + 2 * LARGEST + 4096 - 4 * MIB)
        (root / name / "config.json").write_text("{}")
    return root


def measure(models, *cases):
    """Return the peak of private memory and the plan's, for each case, in one process.

    It has a user's allocator: scripts/environment has torch keep what is freed, for training.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    folders = {"base": str(models / "base"), "models": [str(models / name) for name in "abc"]}
    lines = "".join(json.dumps({"threads": 2, **folders, **case}) + "\n" for case in cases)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=lines,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ELEMENTWISE = [
    name
    for name, kind in METHODS.items()
    if issubclass(kind, Elementwise)
    and not issubclass(kind, PerTaskMethod)
    and not kind.calibration
    and kind.min_models <= 3 <= kind.max_models
]


@pytest.mark.slow
def test_no_elementwise_method_needs_more_than_the_bound_and_the_plan_says(models):
    cases = [{"method": name} for name in ELEMENTWISE]
    cases += [
        {"method": "ties", "arithmetic": "float64"},
        {"method": "pcb", "parameters": {"variant": "paper"}},
    ]
    cases += [{"method": "ties", "shard_size": "8MiB"}, {"method": "ties", "threads": 16}]
    peaks = measure(models, *cases)
    assert len(peaks) == len(cases)
    for case, (peak, planned) in zip(cases, peaks, strict=True):
        assert peak <= planned, case
        assert peak <= 350 * MIB + (3 + 3) * LARGEST, case


@pytest.mark.slow
def test_the_bound_is_lowered_by_smaller_blocks(models):
    (small, small_plan), (large, large_plan) = measure(
        models, {"method": "ties", "block_size": "64KiB"}, {"method": "ties", "block_size": "96MiB"}
    )
    assert small <= small_plan < large_plan
    assert small + LARGEST < large <= large_plan


def test_the_plan_grows_with_the_block_or_the_tensor_not_with_the_model(models, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    config = MergeConfig(
        "ties", str(models / "base"), [str(models / name) for name in "abc"], block_size="3MiB"
    )
    assert check(config).memory == (200 + 2 * (56 + 6 * 3)) * MIB
    whole = next(
        name
        for name, kind in METHODS.items()
        if issubclass(kind, Tensorwise) and not kind.calibration and kind.min_models <= 2 <= kind.max_models
    )
    planned = check(MergeConfig(whole, config.base, config.models[:2])).memory
    assert planned == (200 + 2 * (56 + 5 * 32)) * MIB


def test_an_input_that_is_computed_is_counted(save):
    base, shorter = {"embed.weight": torch.zeros(3 * MIB, 1)}, {"embed.weight": torch.zeros(MIB, 1)}
    folders = [save("base", base), save("a", shorter), save("b", base)]
    config = MergeConfig("average", folders[0], folders[1:], vocabulary="base")
    fitting = MergeConfig("average", folders[0], [folders[2], folders[2]])
    assert check(config).memory - check(fitting).memory == 2 * 12 * MIB
