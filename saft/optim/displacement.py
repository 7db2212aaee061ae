"""Putting w + epsilon in the place of w, and w back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from saft.optim import kernels
from saft.optim.slots import Slot

__all__ = ["Displacement", "in_place"]


class Displacement:
    """The perturbed weights of one ascent step, in place between `apply` and `restore`.

    A parameter that may move is pointed at the buffer that holds w + epsilon, the first gradient's memory:
    its weights are never written, so putting them back costs nothing and cannot be inexact. To a slot with a
    `shift` that is added, and subtracted again. Any other is overwritten, and restored from a copy.

    Args:
        slots: whose buffers hold w + epsilon.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> displacement = Displacement([Slot(w, w.detach(), torch.ones(2), movable=True)])
        >>> displacement.apply(); w.tolist()
        [1.0, 1.0]
        >>> displacement.restore(); w.tolist()
        [0.0, 0.0]
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = list(slots)
        self._undo: list[Callable[[], object]] = []

    def apply(self) -> None:
        """Put w + epsilon in place; the slots are given up."""
        while self._slots:
            slot = self._slots.pop()
            if slot.shift is not None:
                self._add(slot.weight, *slot.shift)
            elif slot.movable:
                self._point(slot.parameter, slot.buffer)
            elif slot.rows is not None:
                self._overwrite_rows(slot.parameter, slot.rows, slot.weight, slot.buffer)
            else:
                self._overwrite(slot.weight, slot.buffer)

    def restore(self) -> None:
        """Put back every weight that was displaced, in reverse order; calling it again does nothing."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()

    def _point(self, parameter: Tensor, displaced: Tensor) -> None:
        original = parameter.data

        def undo() -> None:
            gradient = parameter.grad
            if gradient is not None and gradient.dtype != original.dtype:
                parameter.grad = None
            parameter.data = original
            if gradient is not None and gradient.dtype != original.dtype:
                parameter.grad = gradient.to(original.dtype)
            # A backward over a graph of the other weights must fail, as after any write.
            increment_version(parameter)

        self._undo.append(undo)
        parameter.data = displaced
        increment_version(parameter)

    def _add(self, weight: Tensor, direction: Tensor, scale: Tensor) -> None:
        scale = scale.to(weight)
        if weight.dim() == 0:  # which has no indices
            weight, direction = weight.view(1), direction.view(1)
        for piece, along in kernels.pieces(weight, direction):
            displaced, undo = _sum(piece, along, scale)
            self._undo.append(undo)
            piece.copy_(displaced)

    def _overwrite(self, weight: Tensor, displaced: Tensor) -> None:
        original = weight.clone()
        self._undo.append(lambda: weight.copy_(original))
        weight.copy_(displaced)

    def _overwrite_rows(self, parameter: Tensor, rows: Tensor, original: Tensor, displaced: Tensor) -> None:
        weight = parameter.detach()
        self._undo.append(lambda: weight.index_copy_(0, rows, original))
        weight.index_copy_(0, rows, displaced)


def _sum(weight: Tensor, direction: Tensor, scale: Tensor) -> tuple[Tensor, Callable[[], object]]:
    """Return weight + scale * direction, and what makes of it the weight again, bit for bit.

    Subtracting gives back most weights. The others, which lost digits to rounding, are kept: few where
    epsilon is small beside the weights; where they are many, all are.
    """
    # Product and sum are rounded one after the other, which gives the same bits each time; a fused addcmul
    # may not.
    epsilon = direction * scale
    displaced = weight + epsilon
    lost = (kernels.bits(displaced - epsilon) != kernels.bits(weight)).nonzero(as_tuple=True)
    if 4 * len(lost[0]) > weight.numel():
        original = weight.clone()
        return displaced, lambda: weight.copy_(original)
    kept = weight[lost]
    return displaced, lambda: weight.sub_(direction * scale).index_put_(lost, kept)


@contextmanager
def in_place(slots: Sequence[Slot]) -> Iterator[None]:
    """Hold w + epsilon, from the buffers of the slots, in the place of w, whatever happens inside."""
    displacement = Displacement(slots)
    del slots
    try:
        with torch.no_grad():
            displacement.apply()
        # Autocast keeps the weights that it has cast until its block ends, and would go on with those of w.
        torch.clear_autocast_cache()
        yield
    finally:
        with torch.no_grad():
            displacement.restore()
        torch.clear_autocast_cache()
