"""What a perturbation remembers from step to step, and how a checkpoint numbers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["Memory"]


class Memory(dict[Tensor, dict[str, Tensor]]):
    """Parameter -> name -> tensor; the tensors belong to the perturbation.

    Example:
        >>> import torch
        >>> w, v = torch.zeros(2), torch.zeros(3)
        >>> memory = Memory({v: {"average": torch.ones(3)}})
        >>> memory.by_position([w, v])
        {1: {'average': tensor([1., 1., 1.])}}
    """

    def by_position(self, parameters: Sequence[Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return what is remembered, numbered as a checkpoint of an optimizer numbers its parameters.

        Args:
            parameters: all of the optimizer, in the order of its groups.

        Returns:
            Position -> name -> tensor, of the parameter's shape.
        """
        return {index: dict(self[p]) for index, p in enumerate(parameters) if self.get(p)}

    def load(self, by_position: Mapping[Any, Mapping[str, Tensor]], parameters: Sequence[Tensor]) -> None:
        """Remember what `by_position` returned, on the devices of the parameters, and nothing else.

        Args:
            by_position: position, a number or its text -> name -> tensor of the parameter's shape.
            parameters: all of the optimizer, in the order of its groups.
        """
        self.clear()
        for index, kept in by_position.items():
            parameter = parameters[int(index)]
            self[parameter] = {name: value.to(parameter.device, copy=True) for name, value in kept.items()}
