"""What trainers and modules write down in a step, counted once: the second pass is taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

__all__ = ["put_back"]

# A counter or a metric, copied at each replay; whatever is larger is none.
_SMALL = 4096


@contextmanager
def put_back(attributes: dict[str, Any], but: Collection[str] = ()) -> Iterator[None]:
    """Put back, at the end, what the code inside changes in an object's attributes.

    Put back are the attributes themselves (a number counted up), what is in lists, dictionaries, deques and
    sets (metrics that are collected), small tensors changed in place, and metrics of torchmetrics. Other
    objects are left as they are.

    Args:
        attributes: `vars(owner)`.
        but: names of attributes that are left as they are.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(tokens=10, metrics={"accuracy": [0.5]})
        >>> with put_back(vars(trainer)):
        ...     trainer.tokens += 10
        ...     trainer.metrics["accuracy"].append(0.25)
        >>> trainer
        namespace(tokens=10, metrics={'accuracy': [0.5]})
    """
    undo = {name: _undo(value) for name, value in attributes.items() if name not in but}
    try:
        yield
    finally:
        for name in [name for name in attributes if name not in undo and name not in but]:
            del attributes[name]
        attributes.update({name: undone() for name, undone in undo.items()})


def _undo(value: Any) -> Callable[[], Any]:
    """Return a function that makes of a value what it is now, and returns it."""
    if isinstance(value, dict):
        return _undo_dictionary(value)
    if isinstance(value, list | deque | set):
        return _undo_collection(value)
    if isinstance(value, Metric | MetricCollection):
        return _undo_metric(value)
    if isinstance(value, Tensor) and value.numel() <= _SMALL:
        return _undo_tensor(value)
    return lambda: value


def _undo_dictionary(
    value: dict[Any, Any], of_item: Callable[[Any], Callable[[], Any]] = _undo
) -> Callable[[], Any]:
    undo = {key: of_item(item) for key, item in value.items()}

    def undone() -> dict[Any, Any]:
        items = {key: item() for key, item in undo.items()}
        if not (_same(value, items) and _same(value.values(), items.values())):
            value.clear()
            value.update(items)
        return value

    return undone


def _undo_collection(value: Any) -> Callable[[], Any]:
    items = list(value)

    def undone() -> Any:
        if not _same(value, items):
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(items)
        return value

    return undone


def _same(xs: Collection[Any], ys: Collection[Any]) -> bool:
    """Return whether two collections hold the same objects in the same order."""
    return len(xs) == len(ys) and all(map(is_, xs, ys))


def _undo_tensor(value: Tensor) -> Callable[[], Tensor]:
    if value.is_inference():  # it counts no versions
        return lambda: value
    version, copy = value._version, value.detach().clone()

    def undone() -> Tensor:
        if value._version != version:
            with torch.no_grad():
                value.copy_(copy)
        return value

    return undone


def _undo_metric(metric: Metric | MetricCollection) -> Callable[[], Any]:
    """Undo of its states, of whatever size, what wrappers count beside them, and the metrics inside."""
    undo = _undo_dictionary(
        vars(metric), lambda value: _undo_tensor(value) if isinstance(value, Tensor) else _undo(value)
    )

    def undone() -> Any:
        undo()
        return metric

    return undone
