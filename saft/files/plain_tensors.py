"""What keeps a tensor from being read: it has no numbers of its own, or they stand for others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["not_plain"]


def not_plain(tensor: Tensor) -> str | None:
    """Return what keeps a tensor from being read, number by number, with the cure; None where nothing does.

    Args:
        tensor: of any shape, and any kind that torch has.

    Example:
        >>> not_plain(torch.zeros(2)) is None
        True
        >>> not_plain(torch.zeros(2, device="meta"))
        "is on the device 'meta' and has no numbers; load the weights first"
    """
    if is_lazy(tensor):
        return "is not initialized yet (lazy); call the model once, on any input"
    if hasattr(tensor, "full_tensor"):
        return "is a shard (DTensor); give the whole: model_state_dict with full_state_dict=True"
    if tensor.is_nested:
        return "is nested; give its parts as tensors of their own: tensor.unbind()"
    if tensor.layout != torch.strided:
        return "is sparse; write it densely: tensor.to_dense()"
    if tensor.is_quantized:
        return "is quantized, and codes cannot be added up; give tensor.dequantize()"
    wrapped: bool = is_traceable_wrapper_subclass(tensor)  # type narrowing would rule it out
    if wrapped:
        return f"is a {type(tensor).__name__} and not a plain tensor, as quantized ones are; give plain ones"
    if tensor.is_meta:
        return "is on the device 'meta' and has no numbers; load the weights first"
    return None
