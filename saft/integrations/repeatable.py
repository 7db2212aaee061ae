"""What a step was called with, and what it prepared, as they were: the replay has the same batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from saft.errors import UserError
from saft.optim import is_replay
from saft.optim.random_streams import RandomStreams

__all__ = ["PreparedInputs", "RepeatableCall"]


@runtime_checkable
class _Movable(Protocol):
    """What trainers move to a device: a tensor, or an object of a batch, such as a graph."""

    def to(self, *args: Any, **kwargs: Any) -> Any: ...


class RepeatableCall:
    """Arguments of a call, as they were when it was made.

    Lists, dictionaries and objects that hold a batch (`batch.x`) are copied, for the call may take things out
    of them or replace them; tensors are not, but a change in place is noticed.

    Example:
        >>> batch = {"x": torch.ones(2)}
        >>> call = RepeatableCall((batch,), {})
        >>> _ = batch.pop("x")
        >>> call.again()
        (({'x': tensor([1., 1.])},), {})
    """

    def __init__(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._tensors: list[tuple[Tensor, int]] = []
        self._given = apply_to_collection(
            (arguments, keywords),
            _Movable,
            self._kept,
            wrong_dtype=(Mapping, Sequence, nn.Module),
            allow_frozen=True,
        )

    def again(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the same arguments for the replay.

        Raises:
            UserError: the first pass changed them.
        """
        for tensor, version in self._tensors:
            if tensor._version != version:
                raise UserError(
                    f"the first pass changed its batch in place (a tensor of shape {tuple(tensor.shape)}), so"
                    " the replay would see other data: work on a copy, `tensor.clone()`"
                )
        arguments, keywords = self._given
        return arguments, keywords

    def _kept(self, value: Any) -> Any:
        for tensor in [value] if isinstance(value, Tensor) else getattr(value, "__dict__", {}).values():
            if isinstance(tensor, Tensor) and not tensor.is_inference():  # these count no versions
                self._tensors.append((tensor, tensor._version))
        return value if isinstance(value, Tensor) else copy.copy(value)


class PreparedInputs:
    """What a trainer prepared in the first pass of a micro-batch, given out again in its replay.

    Some trainers generate text there, or take the next of several prepared batches. The random numbers that
    the preparation took are not drawn again: the replay goes on as the first pass did after it.

    Args:
        devices: whose random numbers matter.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._devices = list(devices)
        self._prepared: list[tuple[RepeatableCall, RandomStreams]] = []
        self._given_out = 0

    def take(self, prepare: Callable[[], Any]) -> Any:
        """Return what `prepare` returns, or in the replay what it returned in the first pass.

        Raises:
            UserError: the replay asks for more than the first pass, or for what that one changed.
        """
        if not is_replay():
            prepared = prepare()
            self._prepared.append((RepeatableCall((prepared,), {}), RandomStreams(self._devices)))
            return prepared
        if self._given_out == len(self._prepared):
            raise UserError("the replay of a batch prepares inputs more often than its first pass did")
        call, streams = self._prepared[self._given_out]
        self._given_out += 1
        streams.rewind()
        return call.again()[0][0]
