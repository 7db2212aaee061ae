"""What the replay shares with user code and with the first pass: the flag, and the random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["RandomStreams", "is_replay", "replaying"]

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


class RandomStreams:
    """The state of the random number generators of the CPU and of some devices, at one moment.

    Reading it takes microseconds and waits for no kernel: the counters of CUDA's generators live on the host.

    Args:
        devices: the accelerators whose generators matter; the CPU's always does.

    Example:
        >>> streams = RandomStreams([])
        >>> first = torch.rand(2)
        >>> streams.rewind()
        >>> bool((torch.rand(2) == first).all())
        True
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._devices = [
            (device, getattr(torch, device.type).get_rng_state(device))
            for device in dict.fromkeys(devices)
            if device.type not in ("cpu", "meta")
        ]

    def rewind(self) -> None:
        """Set every generator back to the remembered state."""
        torch.set_rng_state(self._cpu)
        for device, state in self._devices:
            getattr(torch, device.type).set_rng_state(state, device)
