"""What the replay shares with the first pass: the random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy
import torch

__all__ = ["RandomStreams"]


class RandomStreams:
    """The state of torch's, NumPy's and Python's global generators of random numbers, at one moment.

    Reading it takes a tenth of a millisecond and waits for no kernel: the counters of CUDA's generators live
    on the host.

    Args:
        devices: the accelerators whose generators matter; those of the CPU always do.

    Example:
        >>> streams = RandomStreams([])
        >>> first = torch.rand(2)
        >>> streams.rewind()
        >>> bool((torch.rand(2) == first).all())
        True
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        # transformers' Wav2Vec2 and Whisper draw their masks by NumPy, and mixup does its shares.
        self._numpy, self._python = numpy.random.get_state(), random.getstate()
        self._devices = [
            (device, getattr(torch, device.type).get_rng_state(*_named(device)))
            for device in dict.fromkeys(devices)
            if device.type not in ("cpu", "meta")
        ]

    def rewind(self) -> None:
        """Set every generator back to the remembered state."""
        torch.set_rng_state(self._cpu)
        numpy.random.set_state(self._numpy)
        random.setstate(self._python)
        for device, state in self._devices:
            getattr(torch, device.type).set_rng_state(state, *_named(device))


def _named(device: torch.device) -> tuple[torch.device, ...]:
    # There is one of Apple's, and torch 2.4 takes no name for it.
    return () if device.type == "mps" else (device,)
