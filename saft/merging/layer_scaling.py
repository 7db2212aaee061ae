"""LiNeS: a merged task vector scaled layer by layer, little near the input and more near the output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from saft.merging.inputs.tensor_names import depth_in_stack
from saft.merging.merge_config import Lines
from saft.merging.method import Sums, total
from saft.merging.stream.block import Block
from saft.merging.stream.gathering import gather
from saft.merging.stream.windows import BlockStream

__all__ = ["problems", "scaled"]


def problems(lines: Lines, names: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with scaling the layers of a model with tensors of these names."""
    if not depth_in_stack(names, lines.layers):
        yield (
            f"lines.layers: '{lines.layers}' finds the number of a layer in no tensor's name, such as "
            f"'{next(iter(sorted(names)), '')}'; write one that does, with the number as its group"
        )


def scaled(
    lines: Lines,
    tasks: int,
    names: Collection[str],
    merge: Callable[[Block], Tensor],
    blocks: BlockStream[Block],
) -> Callable[[Block], Tensor]:
    """Return the function of a block that merges and then scales the layer that the block is of.

    Args:
        lines: how.
        tasks: number of task vectors.
        names: of all tensors of the model.
        merge: function of a block to the merged task vector.
        blocks: all that are merged; they are gone over once where alpha is not given.

    Returns:
        A function of a block to its scaled merged task vector, [n] or the tensor's shape.
    """
    depth = depth_in_stack(names, lines.layers)
    alpha = lines.alpha
    if alpha is None:

        def norms(block: Block) -> Tensor:
            both = (total(block.task_vectors), merge(block))
            return torch.stack([vector.reshape(-1).abs() for vector in both])

        of_sum, of_merged = gather(Sums(norms), blocks).squeeze(1).tolist()
        alpha = (of_sum / of_merged if of_merged else 1.0) / tasks
    factors: Mapping[str, float] = {name: alpha + lines.beta * depth.get(name, 0.0) for name in names}
    return lambda block: merge(block).mul(factors[block.name])
