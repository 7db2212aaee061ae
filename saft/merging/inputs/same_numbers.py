"""Whether two tensors are one number by number, whatever their dtypes and devices."""

from __future__ import annotations

import torch
from torch import Tensor

from saft.merging.inputs.source import Source

__all__ = ["equal_numbers", "same_numbers"]


def same_numbers(name: str, base: Source, model: Source) -> bool:
    """Return whether a tensor that is not merged is the base's, number by number; it is read as a whole.

    Args:
        name: of the tensor in both.
        base: the base model.
        model: a fine-tuned one, under the base's names.
    """
    if base.headers[name].shape != model.headers[name].shape:
        return False
    if model.keeps(name, base):
        return True
    ours, theirs = (
        torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        for x in (model.tensor(name), base.tensor(name))
    )
    return equal_numbers(ours.detach(), theirs.detach())


def equal_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether two real tensors hold the same numbers, whatever their dtypes and devices.

    Example:
        >>> equal_numbers(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.bfloat16))
        True
        >>> equal_numbers(torch.tensor([1.001]), torch.tensor([1.001], dtype=torch.bfloat16))
        False
    """
    # Both ways: only the wider of the two holds the other's numbers, and which it is need not be known.
    there = one.shape == other.shape and one.to(other).equal(other)
    return there and (one.dtype == other.dtype or other.to(one).equal(one))
