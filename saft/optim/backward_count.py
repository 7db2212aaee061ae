"""Counting backward passes: how a replay of fewer micro-batches than were accumulated is noticed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle, unserializable_hook

__all__ = ["BackwardCount"]


class BackwardCount:
    """Counts the backward passes that have been added up in the gradient of one parameter.

    One hook on one parameter, called before autograd accumulates into `.grad`, so it sees what was there:
    nothing (a fresh start), or the gradient of earlier passes. It reads no values and waits for no device.
    Where gradients do not pass through the parameter's own accumulation (FSDP), it counts nothing and
    `passes` stays 0.

    Example:
        >>> import torch
        >>> w, count = torch.ones(2, requires_grad=True), BackwardCount()
        >>> count.watch([w])
        >>> w.sum().backward(); w.sum().backward(); count.passes
        2
        >>> w.grad = None; w.sum().backward(); count.passes
        1
    """

    def __init__(self) -> None:
        self.passes = 0
        self._watched: weakref.ref[Tensor] | None = None
        self._handle: RemovableHandle | None = None
        self._after: RemovableHandle | None = None
        self._before: tuple[Tensor, int] | None = None
        self._accumulated: tuple[Tensor, int] | None = None
        self._by_value = self._stale = False
        self.changed_before: bool | None = None

    def watch(self, candidates: Sequence[Tensor]) -> None:
        """Watch the first of `candidates`, unless one of them is watched already.

        Args:
            candidates: parameters with a gradient, of any shape.
        """
        watched = self._watched() if self._watched is not None else None
        if not candidates or any(watched is candidate for candidate in candidates):
            return
        self.close()
        counter, parameter = weakref.ref(self), weakref.ref(candidates[0])

        def before_accumulation(_: Tensor) -> None:
            owner, leaf = counter(), parameter()
            if owner is not None and leaf is not None:
                owner._count(leaf.grad)

        def after_accumulation(leaf: Tensor) -> None:
            owner = counter()
            if owner is not None and leaf.grad is not None:
                owner._accumulated = (leaf.grad, leaf.grad._version)

        self._watched = parameter
        self._handle = _register(candidates[0], before_accumulation)
        self._after = candidates[0].register_post_accumulate_grad_hook(after_accumulation)  # type: ignore[no-untyped-call]
        self.passes = 0

    def restart(self) -> None:
        """Count from zero, and expect nothing of the gradient that is there."""
        self.passes = 0
        self._before = self._accumulated = None

    def expect_clearing(self) -> None:
        """Note the gradient that is there; `was_not_cleared` tells whether the next backward added to it."""
        held = self._held
        self._before = None if held is None else (held, held._version)
        self._by_value = self._stale = False
        self.changed_before = None

    def expect_step(self, changed_before: bool | None) -> None:
        """Note a descent gradient, to be stepped along or cleared before another is made.

        A gradient that is then changed in place, as by clipping, counts as cleared only if it is zero. To see
        that waits for the device, but happens only where there was no step.

        Args:
            changed_before: whether the gradient that it replaces was written after its last backward; None
                where it does not matter.
        """
        self.expect_clearing()
        self._by_value, self.changed_before = True, changed_before

    def was_not_cleared(self) -> bool:
        """Return whether the gradient noted in `expect_clearing` was added to, or left as it was."""
        stale = self._stale or self.is_unchanged
        self._before, self._stale = None, False
        return stale

    @property
    def is_unchanged(self) -> bool:
        """Whether the gradient noted in `expect_clearing` is there and was not written since."""
        return self._before is not None and self._is_noted(self._held)

    def was_changed_in_place(self) -> bool:
        """Return whether the gradient was written after the last backward, as by unscaling or clipping."""
        held, noted = self._held, self._accumulated
        return noted is not None and held is noted[0] and held._version != noted[1]

    def close(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
        if self._after is not None:
            self._after.remove()
        self._handle, self._after, self._watched = None, None, None

    def _count(self, held: Tensor | None) -> None:
        self._stale = self._stale or self._is_left(held)
        self._before = None
        self.passes = 1 if held is None else self.passes + 1

    @property
    def _held(self) -> Tensor | None:
        watched = self._watched() if self._watched is not None else None
        return None if watched is None else watched.grad

    def _is_noted(self, held: Tensor | None) -> bool:
        return self._before is not None and held is self._before[0] and held._version == self._before[1]

    def _is_left(self, held: Tensor | None) -> bool:
        if self._before is None or held is None or held is not self._before[0]:
            return False
        return held._version == self._before[1] or (self._by_value and bool(held.any()))

    def __deepcopy__(self, memo: dict[int, Any]) -> BackwardCount:
        return BackwardCount()

    def __reduce__(self) -> tuple[type[BackwardCount], tuple[()]]:
        return (BackwardCount, ())


def _register(parameter: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    # Marked so that sharing the model between processes does not warn that the hook stays behind.
    handle: RemovableHandle = parameter.register_hook(unserializable_hook(hook))  # type: ignore[no-untyped-call]
    return handle
