"""How long a piece of work takes, tried for a moment: for estimates before a merge."""

from __future__ import annotations

import time
from collections.abc import Callable

from saft.merging.stream.reader import one_torch_thread

__all__ = ["clock", "fastest", "seconds_of"]

_PROBE = 0.05
"""Seconds that a trial may take."""


def clock(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that `work` takes in this thread: another program that runs now
    may be gone later."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def fastest(trial: Callable[[], float]) -> float:
    """Return the fewest seconds of the trials that there is time for; each returns its own."""
    times: list[float] = []  # the first warms up
    begin = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < _PROBE:
        times.append(trial())
    return min(times)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the fewest seconds that `work` takes on one core, of a few trials."""
    with one_torch_thread():
        return fastest(lambda: clock(work))
