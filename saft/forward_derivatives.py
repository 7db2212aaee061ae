"""Forward derivatives by torch.func, without the warning of the first in a process."""

from __future__ import annotations

import warnings

import torch

__all__ = ["load_forward_derivatives"]


def load_forward_derivatives() -> None:
    """Take a forward derivative, so that later ones do not warn: torch does so at the first of a process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
