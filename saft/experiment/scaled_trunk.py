"""A merged trunk at any scaling coefficient, from one merge; and of one merge after the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saft.merging.stream.engine import apply
from saft.stored_names import stored_names

__all__ = ["ScaledTrunk"]


class ScaledTrunk:
    """A trunk that can be set to base + lambda * merged task vector for any lambda.

    The weights are, to the bit, those that `saft merge` writes with this lambda: they are computed on the CPU
    and then moved to the trunk's device.

    Args:
        trunk: at the base's weights, float32; is changed in place.
        task_vector: name in files -> merged task vector; what is not named stays as in the base.
    """

    def __init__(self, trunk: nn.Module, task_vector: Mapping[str, Tensor]) -> None:
        self.trunk = trunk
        self.base = {name: value.to("cpu", copy=True) for name, value in trunk.state_dict().items()}
        self.take(task_vector)

    def take(self, task_vector: Mapping[str, Tensor]) -> None:
        """Take another merged task vector in place of the one before.

        Args:
            task_vector: name in files -> merged task vector, in the tensor's shape.
        """
        state, stored = self.trunk.state_dict(), stored_names(self.trunk)
        # A tied tensor has one name in files, and several here: each of them must have the new value.
        vectors = {
            _place(state[name]): task_vector[file] for name, file in stored.items() if file in task_vector
        }
        self.task_vector = {
            name: vectors[_place(tensor)] for name, tensor in state.items() if _place(tensor) in vectors
        }

    def by(self, value: float, task: str | None = None) -> nn.Module:
        """Return the trunk, set to this scaling coefficient.

        Args:
            value: the scaling coefficient.
            task: that it is for, which is of no matter here: one model is for all tasks.
        """
        state = {
            name: apply(tensor, self.task_vector[name], value) if name in self.task_vector else tensor
            for name, tensor in self.base.items()
        }
        self.trunk.load_state_dict(state)
        return self.trunk


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    """Return what two tensors have in common if and only if they are tied."""
    return tensor.data_ptr(), tensor.shape
