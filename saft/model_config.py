"""Which pretrained model, and on which device: what configs say of it, known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from saft.errors import first_line

__all__ = ["POOLINGS", "Device", "ModelConfig", "Pooling", "check_device"]

_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "npu", "xla")

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
    takes what the head was trained with, else the last of a decoder-only model and the mean of another."""


def _device(text: str) -> str:
    kind, colon, number = text.partition(":")
    if kind not in _DEVICES or (colon and not number.isdecimal()):
        raise ValueError(f"'{text}' is not a device of torch; write cpu, cuda, cuda:1 or mps")
    return text


Device = Annotated[str, AfterValidator(_device)]
"""The name of a device of torch; whether this machine has it, `check_device` says."""


Precision = Literal["32-true", "bf16-mixed"]
"""The precision that scores are computed in, in the words of lightning.Trainer."""


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
        raise ValueError(f"device: '{name}' is not a device of this machine: {first_line(error)}") from None
