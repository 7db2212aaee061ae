"""The most memory that a training takes."""

from __future__ import annotations

import mmap
import sys
from types import SimpleNamespace

import pytest
import torch

from saft.training import peak_memory
from saft.training.peak_memory import PeakMemory

MODULE = SimpleNamespace(device=torch.device("cpu"))
MB = 1 << 20


def _hold(size):
    """Hold so much memory for a moment; no allocator keeps it."""
    with mmap.mmap(-1, size) as held:
        for place in range(0, size, mmap.PAGESIZE):
            held[place] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts from a moment on")
def test_what_was_held_in_between_counts_and_what_was_before_does_not():
    _hold(400 * MB)
    memory = PeakMemory()
    memory.on_train_start(None, MODULE)
    _hold(200 * MB)
    kept = memory.state_dict()["bytes"]
    memory.on_train_end(None, MODULE)
    with_it = memory.bytes
    assert abs(kept - with_it) < 50 * MB  # a checkpoint has the peak until then
    memory = PeakMemory()
    memory.on_train_start(None, MODULE)
    memory.on_train_end(None, MODULE)
    assert 150 * MB < with_it - memory.bytes < 300 * MB


def test_the_peak_of_an_interrupted_run_stays():
    memory = PeakMemory()
    memory.load_state_dict({"bytes": 1 << 50})
    memory.on_train_start(None, MODULE)
    memory.on_train_end(None, MODULE)
    assert memory.state_dict() == {"bytes": 1 << 50}


def test_where_it_cannot_be_counted_it_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "_RESET", tmp_path / "nowhere" / "clear_refs")
    memory = PeakMemory()
    memory.on_train_start(None, MODULE)
    memory.on_train_end(None, MODULE)
    assert memory.bytes is None
