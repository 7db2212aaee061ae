"""How code that runs in both passes knows which one it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_replay", "replaying"]

# Not a context variable: checkpointed forwards run again in autograd's threads, which would inherit none.
_depth = 0


def is_replay() -> bool:
    """Return whether the code runs inside the replay, the second pass of a sharpness-aware step.

    Whatever a forward updates besides activations (an average of weights, a queue, a metric, a log) runs
    twice per step; ask here to do it once. It is False at the first pass, at evaluation, and in methods that
    need no replay.

    Example:
        >>> is_replay()
        False
    """
    return _depth > 0


@contextmanager
def replaying() -> Iterator[None]:
    """Make `is_replay()` true inside."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
