"""What a perturbation remembers from step to step, and how a checkpoint numbers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["Memory"]


class Memory(dict[Tensor, dict[str, Tensor]]):
    """Parameter -> name -> tensor; the tensors belong to the perturbation.

    Of a parameter in shards (DTensor) they are of this rank's shape; a checkpoint has them in shards, too, as
    it has what torch's optimizers keep.

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
        return {
            index: {name: _laid_out(value, p) for name, value in self[p].items()}
            for index, p in enumerate(parameters)
            if self.get(p)
        }

    def load(self, by_position: Mapping[Any, Mapping[str, Tensor]], parameters: Sequence[Tensor]) -> None:
        """Remember what `by_position` returned, on the devices of the parameters, and nothing else.

        Args:
            by_position: position, a number or its text -> name -> tensor of the parameter's shape; for a
                parameter in shards it may be whole.
            parameters: all of the optimizer, in the order of its groups.
        """
        self.clear()
        for index, kept in by_position.items():
            parameter = parameters[int(index)]
            self[parameter] = {name: _own_part(value, parameter) for name, value in kept.items()}


def _laid_out(value: Tensor, parameter: Any) -> Tensor:
    """Return this rank's part of a tensor as the whole of it, laid out as a parameter is."""
    if not hasattr(parameter, "to_local"):
        return value
    from torch.distributed.tensor import DTensor

    layout = {"shape": parameter.shape, "stride": parameter.stride(), "run_check": False}
    return DTensor.from_local(value, parameter.device_mesh, parameter.placements, **layout)


def _own_part(value: Any, parameter: Any) -> Tensor:
    """Return a copy of this rank's part of a tensor, on the device of a parameter."""
    value = value.to(parameter.device)
    if hasattr(parameter, "to_local"):
        from torch.distributed.tensor import distribute_tensor

        if hasattr(value, "to_local"):
            value = value.redistribute(parameter.device_mesh, parameter.placements)
        else:  # each rank has read the whole
            mesh, placements = parameter.device_mesh, parameter.placements
            value = distribute_tensor(value, mesh, placements, src_data_rank=None)
        value = value.to_local()
    elif hasattr(value, "full_tensor"):
        value = value.full_tensor()
    copy: Tensor = value.clone()
    return copy
