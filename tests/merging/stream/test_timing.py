from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from saft.merging.stream import timing


def test_the_fewest_of_at_least_two_trials_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_PROBE", 0.0)  # no time for a third
    trials: Iterator[float] = iter([3.0, 2.0, 1.0])
    assert timing.fastest(lambda: next(trials)) == 2.0
    assert list(trials) == [1.0]


def test_work_is_timed_on_one_thread_by_the_processors_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_PROBE", 0.0)
    ticks = iter([10.0, 14.0, 20.0, 22.5])
    monkeypatch.setattr(timing.time, "thread_time", lambda: next(ticks))
    before, threads = torch.get_num_threads(), []
    assert timing.seconds_of(lambda: threads.append(torch.get_num_threads())) == 2.5
    assert threads == [1, 1]
    assert torch.get_num_threads() == before
