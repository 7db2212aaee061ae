"""Batch normalization sees each batch twice in a sharpness-aware step, and must count it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["frozen_statistics", "has_batch_norms"]


def has_batch_norms(model: nn.Module) -> bool:
    """Return whether what a model makes of an example depends on the others of its batch, in training.

    Args:
        model: whose modules are looked at.

    Example:
        >>> has_batch_norms(nn.Sequential(nn.BatchNorm2d(3))), has_batch_norms(nn.LayerNorm(3))
        (True, False)
    """
    return any(isinstance(module, _BatchNorm) for module in model.modules())


@contextmanager
def frozen_statistics(modules: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Stop batch norms from updating their statistics and counters; they still normalize by the batch.

    Running mean, running variance and `num_batches_tracked` stay as they are (the usual recipe of setting
    `momentum = 0` lets the counter run on, which spoils `momentum=None`).

    Args:
        modules: the models that will be called. With none, every module that is called inside is looked
            through when it is called; give them where the model is compiled, since torch warns about hooks on
            all modules.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics([norm]):
        ...     _ = norm(torch.randn(4, 2))
        >>> int(norm.num_batches_tracked)
        0
    """
    frozen: list[_NormBase] = []
    seen: set[nn.Module] = set()

    def freeze(module: nn.Module, _: Any = None) -> None:
        if module in seen:
            return
        for child in module.modules():
            seen.add(child)
            if isinstance(child, _NormBase) and child.training and child.track_running_stats:
                frozen.append(child)
                child.track_running_stats = False

    handle = None if modules else register_module_forward_pre_hook(freeze)
    try:
        for module in modules:
            freeze(module)
        yield
    finally:
        if handle is not None:
            handle.remove()
        for norm in frozen:
            norm.track_running_stats = True
