"""Methods that keep a part of every task: what they make of a block, and a task's vector out of it again."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from saft.files.tensorfile import Layout
from saft.merging.method import Elementwise, Method, Statistic, Steps
from saft.merging.stream.block import Block

__all__ = ["PerTaskMethod", "SplitSteps", "PerTaskParts", "MaskedMethod", "pack", "unpack"]


@dataclass(frozen=True)
class PerTaskParts:
    """What is kept of a block.

    Args:
        vector: what all tasks share, [n]; None where they share only the base.
        parts: what each task has for itself: name of the piece -> [n_tasks, ...].
        rescalers: a factor for each task, float64 [n_tasks]; the same in every block.
    """

    vector: Tensor | None
    parts: Mapping[str, Tensor]
    rescalers: Tensor


Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

SplitSteps = Generator[Statistic, Tensor, Callable[[Block], PerTaskParts]]


class PerTaskMethod(Method):
    """A method that keeps a part of every task beside what all share; a task's model is made of both.

    As a `Method` it gives the vectors of all tasks, [n_tasks, n] or [n_tasks, *shape], where one that merges
    gives one vector for all.
    """

    gives = "a shared part, and one part per task"
    shares: ClassVar[bool] = True
    """Whether the tasks share a vector, or only the base."""

    @abstractmethod
    def split(self, tasks: int, count: int) -> SplitSteps:
        """Yield statistics and receive them, as `steps` does; return the function of a block.

        Args:
            tasks: number of task vectors.
            count: number of coordinates that the statistics are taken over.

        Returns:
            A function of a block to what is kept of it.
        """

    @abstractmethod
    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Return the pieces that a task keeps of a tensor of this shape, in the order of their names.

        Args:
            shape: of the tensor.

        Returns:
            Name of the piece -> its dtype and shape.
        """

    def part_layout(self, shapes: Shapes) -> Layout:
        """Return what each task has for itself: name and piece -> (dtype, shape).

        Args:
            shapes: of the tensors that are worked on.
        """
        return {
            f"{name}.{piece}": form
            for name, shape in shapes.items()
            for piece, form in self.layout(shape).items()
        }

    def shared_layout(self, shapes: Shapes) -> Layout:
        """Return what all tasks share beside the base: name -> (dtype, shape).

        Args:
            shapes: of the tensors that are worked on.
        """
        return {name: (torch.float32, shape) for name, shape in shapes.items()} if self.shares else {}

    @abstractmethod
    def restored(
        self, shape: tuple[int, ...], vector: Tensor | None, part: Mapping[str, Tensor], rescaler: float
    ) -> Tensor:
        """Return a task's vector, without λ, of what was kept of a tensor.

        Args:
            shape: of the tensor.
            vector: what all tasks share, of as many elements; None where they share only the base.
            part: the task's pieces.
            rescaler: the task's factor.

        Returns:
            [*shape], in the dtype of what was kept.
        """

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the function of a block to the vectors of all tasks."""
        function = yield from self.split(tasks, count)

        def restore(block: Block) -> Tensor:
            kept, shape = function(block), tuple(block.base.shape)
            rows = [
                self.restored(shape, kept.vector, {name: rows[task] for name, rows in kept.parts.items()}, by)
                for task, by in enumerate(kept.rescalers.tolist())
            ]
            return torch.stack(rows)

        return restore


class MaskedMethod(PerTaskMethod, Elementwise):
    """A method that keeps one vector for all tasks, and of each task a bit for every entry."""

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Return the mask: eight entries to a byte."""
        return {"mask": (torch.uint8, (math.ceil(math.prod(shape) / 8),))}

    def restored(
        self, shape: tuple[int, ...], vector: Tensor | None, part: Mapping[str, Tensor], rescaler: float
    ) -> Tensor:
        """Return rescaler · mask ⊙ vector, multiplied in float64: a rescaler by itself may exceed float32."""
        assert vector is not None
        chosen = unpack(part["mask"], vector.numel())
        # Selected and not multiplied by zero: what is masked out may be infinite times the rescaler.
        scaled = torch.where(chosen, vector.reshape(-1).double() * rescaler, 0)
        return scaled.to(vector.dtype).view(shape)


def pack(masks: Tensor) -> Tensor:
    """Return masks as bits, eight to a byte, the first in the highest bit.

    Args:
        masks: bool [rows, n].

    Returns:
        uint8 [rows, ⌈n / 8⌉]; the bits past the end are zero.

    Example:
        >>> pack(torch.tensor([[True, False, False, False, False, False, False, True, True]]))
        tensor([[129, 128]], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(masks.cpu().numpy(), axis=-1)).to(masks.device)


def unpack(bits: Tensor, count: int) -> Tensor:
    """Return `count` bits as a mask, bool [..., count]; undoes `pack`.

    Args:
        bits: uint8 [..., ⌈count / 8⌉].
        count: entries of the mask.
    """
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), axis=-1, count=count)).bool().to(bits.device)
