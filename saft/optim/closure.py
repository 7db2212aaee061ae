"""What a closure owes a step that may call it twice, and how it is told when it does not deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from saft.errors import UserError
from saft.optim.ascent import Ascent
from saft.optim.backward_count import BackwardCount

__all__ = ["call_without_backward", "require_fresh_gradients", "written_by_lightning"]


def written_by_lightning(closure: Any) -> bool:
    """Return whether a closure was made by Lightning, and not by the user, who then never heard of it.

    Example:
        >>> written_by_lightning(lambda: None)
        False
    """
    while isinstance(closure, partial):
        closure = closure.args[-1] if closure.args else closure.func
    package = str(getattr(closure, "__module__", "")).split(".")[0]
    return package in ("lightning", "pytorch_lightning")


@contextmanager
def require_fresh_gradients(ascent: Ascent, by_lightning: bool = False) -> Iterator[None]:
    """Check that the closure called inside computes the gradients again, so that its replay can repeat it.

    Args:
        ascent: whose gradients they are.
        by_lightning: whether the closure is Lightning's, so that the message must not speak of it.

    Raises:
        UserError: it added to older gradients, or computed none.
    """
    backwards = _watched(ascent)
    backwards.expect_clearing()
    yield
    if not ascent.replays:
        return
    if backwards.is_unchanged or not any(p.grad is not None for p in ascent.parameter_groups.trainable):
        raise UserError(
            f"step() without a replay of this batch would be a plain step: {ascent.advice.replay}"
            if by_lightning
            else "step(closure): the closure left the gradients as they were: it must zero them, run forward"
            " and backward, and return the loss"
        )
    if backwards.was_not_cleared():
        raise UserError(
            "Lightning's automatic optimization calls the optimizer with the last micro-batch only, and the"
            " others cannot be replayed: return the base optimizer from configure_optimizers, and use the"
            " callback, Trainer(callbacks=[saft.integrations.lightning.SharpnessAware(rho=0.05)])"
            if by_lightning
            else "the closure did not zero the gradients of an earlier backward, so its replay could not"
            " repeat the first pass: call optimizer.zero_grad() in it; to accumulate micro-batches loop over"
            " them inside the closure, or use first_pass() and replay_pass()"
        )


def call_without_backward(ascent: Ascent, closure: Callable[[], Any]) -> Any:
    """Call a closure when the gradient is ready, and return what it returns.

    Args:
        ascent: whose gradient it is.
        closure: must return the loss without a backward.

    Raises:
        UserError: it computed another gradient.
    """
    backwards = _watched(ascent)
    backwards.restart()
    loss = closure()
    if backwards.passes:
        raise UserError(
            "step(closure) after perturbed() or skip_replay(): the gradient was ready, and the closure"
            " computed another; call step() without a closure"
        )
    return loss


def _watched(ascent: Ascent) -> BackwardCount:
    backwards = ascent.pairs.backwards
    backwards.watch([p for p in ascent.parameter_groups.trainable if p.grad is not None])
    return backwards
