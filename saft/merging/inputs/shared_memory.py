"""Tensors that share a part of their memory: what is written to one changes the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["first_overlap"]


@dataclass(frozen=True)
class _Span:
    """A tensor's bytes, from the first to behind the last, some of which may be of no entry."""

    name: str
    tensor: Tensor
    start: int
    stop: int

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> _Span:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * step for size, step in steps)
        start = tensor.data_ptr()
        return cls(name, tensor, start, start + (last + 1) * tensor.itemsize)

    @property
    def is_dense(self) -> bool:
        """Return whether every byte is of one entry, and of one alone, in whichever order of dimensions."""
        filled = 1
        for step, size in sorted(self.steps):
            if step != filled:
                return False
            filled *= size
        return True

    @property
    def entries(self) -> object:
        """Return what two tensors have in common whose entries are the same, one by one."""
        return self.start, self.tensor.dtype, self.tensor.shape, self.steps

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Return stride and length of the dimensions in which there is something to step over."""
        both = zip(self.tensor.stride(), self.tensor.shape, strict=True)
        return [(step, size) for step, size in both if size > 1]


def first_overlap(written: Mapping[str, Tensor], read: Mapping[str, Tensor] = {}) -> tuple[str, str] | None:
    """Return the names of two tensors that share a part of their memory, of which at least one is written.

    Tensors that are the very same are none, nor are slices between each other, such as columns of one matrix.
    Of a tensor of which entries are one, as those of an expanded one are, its name comes twice.

    Args:
        written: name -> tensor, on any device.
        read: further ones, which may overlap each other; no name is in both.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> first_overlap({"top": whole[:3], "bottom": whole[2:]})
        ('top', 'bottom')
        >>> first_overlap({"left": whole[:, :2], "right": whole[:, 2:]}) is None
        True
    """
    by_device: dict[torch.device, list[_Span]] = {}
    for name, tensor in {**written, **read}.items():
        if tensor.numel():
            by_device.setdefault(tensor.device, []).append(_Span.of(name, tensor))
    for spans in by_device.values():
        begun: list[_Span] = []
        for span in sorted(spans, key=lambda span: span.start):
            begun = [other for other in begun if other.stop > span.start]
            if span.name in written and not span.is_dense and _repeats(span):
                return span.name, span.name
            for other in begun:
                if (other.name in written or span.name in written) and _overlap(other, span):
                    return other.name, span.name
            begun.append(span)
    return None


def _overlap(one: _Span, other: _Span) -> bool:
    """Return whether two tensors share entries without being the same; `one` begins first."""
    if one.entries == other.entries:
        return False
    if one.is_dense and other.is_dense:
        return True
    unit = math.gcd(one.tensor.itemsize, other.tensor.itemsize, other.start - one.start)
    memory = torch.zeros((max(one.stop, other.stop) - one.start) // unit, dtype=torch.bool)
    _within(memory, one, one.start, unit).fill_(True)
    return bool(_within(memory, other, one.start, unit).any())


def _repeats(span: _Span) -> bool:
    """Return whether several entries of a tensor are one."""
    if any(step == 0 for step, _ in span.steps):  # torch writes to no such tensor
        return True
    unit = span.tensor.itemsize
    memory = torch.zeros((span.stop - span.start) // unit, dtype=torch.bool)
    _within(memory, span, span.start, unit).fill_(True)
    return int(memory.sum()) < span.tensor.numel()


def _within(memory: Tensor, span: _Span, start: int, unit: int) -> Tensor:
    """Return the view that a tensor has of memory: an element for each of so many bytes, from a start on."""
    units = span.tensor.itemsize // unit
    shape = (*span.tensor.shape, units)
    steps = (*(step * units for step in span.tensor.stride()), 1)
    return memory.as_strided(shape, steps, (span.start - start) // unit)
