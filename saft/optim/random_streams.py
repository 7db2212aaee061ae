"""What the replay shares with the first pass: the random numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["RandomStreams"]


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
