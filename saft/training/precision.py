"""The precision that trainings and evaluations compute in, unless another is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saft.training.devices import BFLOAT16, has_bfloat16

__all__ = ["computing", "usual_precision"]


def usual_precision(accelerator: str) -> str:
    """Return the precision where none is asked for: bf16-mixed on a GPU that has bfloat16, else 32-true.

    Args:
        accelerator: of lightning.Trainer, or the type of a device: auto, gpu, cuda, cpu ...

    Example:
        >>> usual_precision("cpu")
        '32-true'
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and has_bfloat16() else "32-true"


@contextmanager
def computing(precision: str | int | None, device: torch.device) -> Iterator[None]:
    """Compute as the steps of a training in this precision do.

    Args:
        precision: as lightning.Trainer has it; None for the usual one of the device, or the autocast that is
            on already.
        device: where the model is.

    Example:
        >>> with computing("bf16-mixed", torch.device("cpu")):
        ...     torch.nn.Linear(2, 3)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    if precision is None and torch.is_autocast_enabled(device.type):
        yield
        return
    named = str(usual_precision(device.type) if precision is None else precision)
    with torch.autocast(device.type, torch.bfloat16, enabled=named in BFLOAT16):
        yield
