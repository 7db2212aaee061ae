"""How the trunk runs while it is trained: compiled, or with activations computed again instead of kept."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from saft.errors import UserError, first_line
from saft.training.options import TrainingOptions

__all__ = ["executed"]


@contextmanager
def executed(trunk: nn.Module, options: TrainingOptions) -> Iterator[None]:
    """Let a trunk run inside as `compile` and `gradient_checkpointing` say, and afterwards as before.

    Neither changes what is computed, but compiled, sums may be taken in another order, and dropout draws its
    masks by other numbers: the same ones in both passes of a step.

    Raises:
        UserError: the model cannot compute activations again, or torch cannot compile it.

    Example:
        >>> trunk = nn.Linear(2, 2)
        >>> with executed(trunk, TrainingOptions(gradient_checkpointing=True)):
        ...     pass
        Traceback (most recent call last):
        saft.errors.UserError: training.gradient_checkpointing: Linear has none; leave it out
    """
    with contextlib.ExitStack() as stack:
        if options.gradient_checkpointing:
            stack.enter_context(_activations_computed_again(trunk))
        if options.compile:
            stack.enter_context(_compiled(trunk))
        yield


@contextmanager
def _activations_computed_again(trunk: nn.Module) -> Iterator[None]:
    model: Any = trunk
    if not getattr(model, "supports_gradient_checkpointing", False):
        name = type(trunk).__name__
        raise UserError(f"training.gradient_checkpointing: {name} has none; leave it out")
    renamed = hasattr(model, "activation_checkpointing_enable")  # in transformers 5
    called = "activation_checkpointing" if renamed else "gradient_checkpointing"
    caches = getattr(model.config, "use_cache", None)
    getattr(model, f"{called}_enable")(**{f"{called}_kwargs": {"use_reentrant": False}})
    if caches:  # which goes with it in no model, and each says so
        model.config.use_cache = False
    try:
        yield
    finally:
        getattr(model, f"{called}_disable")()
        if caches:
            model.config.use_cache = True


@contextmanager
def _compiled(trunk: nn.Module) -> Iterator[None]:
    trunk.compile()  # in place: names and forms of the weights stay
    try:
        with warnings.catch_warnings():  # torch's own, of activations that are computed again
            warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
            yield
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = first_line(getattr(error, "inner_exception", error))
            raise UserError(
                f"training.compile: torch cannot compile the model here: {reason}; leave it out"
            ) from error
        raise
    finally:
        trunk._compiled_call_impl = None
