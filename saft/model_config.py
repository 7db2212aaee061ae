"""Which pretrained model, and on which device: what configs say of it, known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["POOLINGS", "ModelConfig", "Pooling", "check_device"]

Pooling = Literal["mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last")


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained model that every task starts from.

    Example:
        >>> ModelConfig("package://sentence_transformers_minilm/model").pooling is None
        True
    """

    path: str
    """A local folder, a hub id, or package://DISTRIBUTION/path/inside."""
    pooling: Pooling | None = None
    """How token features become one vector per text: mean over the tokens, the first token, or the last; null
    takes what the head was trained with, else the mean."""


def check_device(name: str) -> None:
    """Check that torch can compute on a device of this machine; for the `late_check` of a config.

    Args:
        name: cpu, cuda, cuda:1, mps.

    Raises:
        ValueError: it cannot.

    Example:
        >>> check_device("gpu")
        Traceback (most recent call last):
        ValueError: device: 'gpu' is not a device of this machine: ...
    """
    import torch

    try:
        torch.zeros(1, device=name).item()  # `meta` computes, but nothing can be read from it
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device: '{name}' is not a device of this machine: {reason}") from None
