"""The most memory that a training takes: what is allocated on a GPU, else what the process holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch

__all__ = ["PeakMemory", "peak", "reset_peak"]

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory(L.Callback):
    """Measure the peak of memory from the first step to the last; of several devices, the first's.

    On a GPU it is what PyTorch has allocated there at once. On a CPU it is what the process held in memory
    (its resident set), the model, its data and the libraries among it; Linux alone can count it from the
    first step on, so that elsewhere it is not known.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._device: torch.device | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._device = pl_module.device if reset_peak(pl_module.device) else None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the peak, also over an interrupted run before."""
        self.bytes, self._device = self._most(), None

    def _most(self) -> int | None:
        now = None if self._device is None else peak(self._device)
        return max((most for most in (now, self.bytes) if most is not None), default=None)

    def state_dict(self) -> dict[str, Any]:
        """Return the peak until now, for Lightning's checkpoint."""
        return {"bytes": self._most()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the peak of an interrupted run."""
        self.bytes = state_dict["bytes"]


def reset_peak(device: torch.device) -> bool:
    """Begin to count the most memory anew; return whether it can be counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError):
        _RESET.write_text("5")
        return True
    return False


def peak(device: torch.device) -> int | None:
    """Return the most memory since the count began, bytes; on a CPU the largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in _STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
