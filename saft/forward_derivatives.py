"""Forward derivatives by torch.func: what a model computes meanwhile, and without torch's warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["load_forward_derivatives", "with_forward_derivative"]


def load_forward_derivatives() -> None:
    """Take a forward derivative, so that later ones do not warn: torch does so at the first of a process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


@contextmanager
def with_forward_derivative(trunk: nn.Module) -> Iterator[None]:
    """Have a trunk compute what has a forward derivative: fused attention, and grouped experts, have none.

    Args:
        trunk: a transformers model; of others only attention by torch's function is changed.
    """
    model: Any = trunk
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    switched = experts is not None and experts != "eager"
    with sdpa_kernel(SDPBackend.MATH):
        if switched:
            model.set_experts_implementation("eager")
        try:
            yield
        finally:
            if switched:
                model.set_experts_implementation(experts)
