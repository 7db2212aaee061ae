"""What an ascent step works on: local, dense views of the weights, beside what becomes w + epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saft.optim import kernels

__all__ = ["Label", "Layout", "Slot", "AscentSlots"]


class Label(NamedTuple):
    """What a parameter is called, and the class name of the layer that owns it; "" where unknown."""

    name: str = ""
    layer: str = ""


class Layout(NamedTuple):
    """How shards make up a whole tensor: a DTensor's mesh and placements."""

    mesh: Any
    placements: tuple[Any, ...]


@dataclass
class Slot:
    """One parameter of an ascent step.

    All tensors are local shards (of a DTensor), real (a complex parameter is viewed as pairs) and dense (of a
    sparse gradient, only the touched rows), so that a perturbation is plain arithmetic.

    Args:
        parameter: as the model holds it.
        weight: w; read, never written.
        buffer: the gradient at first; a perturbation overwrites it with w + epsilon.
        label: its name and the kind of layer it belongs to.
        memory: what a perturbation keeps from step to step; it is checkpointed.
        optimizer_state: the base optimizer's state of it, empty before its first step.
        layout: how the shards make up the whole; None where w is whole.
        rows: the rows that a sparse gradient touches; None where it is dense.
        movable: whether the parameter may be pointed at the buffer, rather than be overwritten.
        shift: (direction, scale): what is added to w in its place, instead of a buffer, by perturbations that
            do so.
    """

    parameter: Tensor
    weight: Tensor
    buffer: Tensor
    label: Label = field(default_factory=Label)
    memory: dict[str, Tensor] = field(default_factory=dict)
    optimizer_state: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    rows: Tensor | None = None
    movable: bool = False
    shift: tuple[Tensor, Tensor] | None = None

    def local(self, tensor: Tensor) -> Tensor:
        """Return this rank's part of a tensor that is laid out as the parameter is.

        Args:
            tensor: of the whole parameter's shape.

        Returns:
            The part, of the weight's shape; complex numbers as pairs of real ones.
        """
        if self.layout is not None and hasattr(tensor, "to_local"):
            tensor = tensor.to_local()
        return torch.view_as_real(tensor) if tensor.is_complex() else tensor

    @property
    def shard(self) -> tuple[int, ...]:
        """This rank's place among the shards; empty where the tensor is whole."""
        if self.layout is None:
            return ()
        return tuple(
            self.layout.mesh.get_local_rank(dimension)
            for dimension, placement in enumerate(self.layout.placements)
            if not placement.is_replicate()
        )


class AscentSlots:
    """The parameters of one ascent step.

    Args:
        slots: one per parameter; at least one.
        step: number of optimizer steps taken so far.
        grad_scale: the loss scale that the gradients still carry, a 0-dim tensor or a number.
    """

    def __init__(self, slots: Sequence[Slot], step: int = 0, grad_scale: Tensor | float = 1.0) -> None:
        self.slots = list(slots)
        self.step = step
        self.grad_scale = grad_scale

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    @property
    def weights(self) -> list[Tensor]:
        """W, one tensor per slot, in the shape of this rank's part of the parameter."""
        return [slot.weight for slot in self.slots]

    @property
    def buffers(self) -> list[Tensor]:
        """The gradient, then w + epsilon; one tensor per slot, in the shape of its weight."""
        return [slot.buffer for slot in self.slots]

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        r"""Return $\|x\|_2$ of one tensor per slot, over all shards of all ranks, as a 0-dim tensor."""
        return self._total(lambda group: kernels.norm([tensors[i] for i in group]).square()).sqrt()

    def dot(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
        r"""Return $\langle x, y \rangle$ of two tensors per slot, over all shards of all ranks; 0-dim."""
        return self._total(lambda group: kernels.dot([xs[i] for i in group], [ys[i] for i in group]))

    @property
    def n_elements(self) -> int:
        """Number of weights, over all shards of all ranks; of a complex one both parts."""
        return sum((slot.weight if slot.layout is None else slot.parameter).numel() for slot in self.slots)

    def where(self, condition: Callable[[Slot], bool]) -> AscentSlots:
        """Return the slots of which the condition holds."""
        return AscentSlots([slot for slot in self.slots if condition(slot)], self.step, self.grad_scale)

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """Add up one 0-dim tensor per slot, over all shards of all ranks."""
        device = values[0].device
        return self._total(lambda group: torch.stack([values[i].to(device) for i in group]).sum())

    def blocks(self) -> Iterator[kernels.TensorBlock]:
        """Cut weights and buffers into blocks that several operations in a row are quick on."""
        return kernels.blocks(self.weights, self.buffers)

    def norm_by_blocks(
        self,
        change: Callable[[kernels.TensorBlock], list[Tensor]],
        where: Callable[[Slot], bool] = lambda _: True,
    ) -> Tensor:
        """Change the buffers of some slots, block by block, and return a norm taken on the way.

        Args:
            change: changes the buffers of a block, and returns the norms that it had need of, while the block
                was in a CPU's cache.
            where: which slots are changed; of the others the norm is that of the buffers as they are.

        Returns:
            The norm over all slots and all ranks, 0-dim.
        """

        def of_group(group: list[int]) -> Tensor:
            changed = AscentSlots([self.slots[i] for i in group if where(self.slots[i])])
            norms = [norm for block in changed.blocks() for norm in change(block)]
            others = [self.slots[i].buffer for i in group if not where(self.slots[i])]
            return kernels.norm_of_norms([*norms, *([kernels.norm(others)] if others else [])]).square()

        return self._total(of_group).sqrt()

    def ascend(self, scale: Tensor) -> None:
        """Overwrite every buffer b with w + scale * b; with w where the scale is 0, whatever b holds.

        Args:
            scale: 0-dim.
        """
        kernels.ascend_(self.weights, self.buffers, scale)

    def _total(self, of_group: Callable[[list[int]], Tensor]) -> Tensor:
        groups: dict[Layout | None, list[int]] = {}
        for index, slot in enumerate(self.slots):
            groups.setdefault(slot.layout, []).append(index)
        sums = [_over_ranks(of_group(group), layout) for layout, group in groups.items()]
        return torch.stack([value.to(sums[0].device) for value in sums]).sum()


def _over_ranks(value: Tensor, layout: Layout | None) -> Tensor:
    """Add up a value that each rank computed from its own shard; replicated dimensions are counted once."""
    if layout is None:
        return value
    from torch.distributed.tensor import DTensor, Partial, Replicate

    # Not by `is_shard`: FSDP2 on top of tensor parallelism divides by a placement of another class.
    parts = [Replicate() if placement.is_replicate() else Partial() for placement in layout.placements]
    return DTensor.from_local(value, layout.mesh, parts, run_check=False).full_tensor()
