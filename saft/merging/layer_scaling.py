"""LiNeS: a merged task vector scaled layer by layer, little near the input and more near the output."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.config import FiniteFloat, checked
from saft.merging.inputs.tensor_names import depth_in_stack
from saft.merging.method import Sums, total
from saft.merging.stream.block import Block
from saft.merging.stream.order_statistics import BlockStream, gather

__all__ = ["Lines", "problems", "scaled"]

LAYERS = r"(?:^|\.)(?:layers?|blocks?|resblocks|h)\.(\d+)\."


@checked
@dataclass(frozen=True)
class Lines:
    r"""LiNeS, after any method that gives one model: layer l of L is scaled by a factor that grows with l.

    .. math:: \theta = \theta_0 + \lambda \left(\alpha + \beta\,\frac{l}{L - 1}\right) \tau

    for l from 0; embeddings, norms and heads outside the layers get α, and so does a stack of a single layer.
    Where a model has several stacks, such as an encoder and a decoder, each is counted by itself. λ is 1 here
    unless `scaling` is given. With α unset it is what makes up for the smaller norm of a merged vector,

    .. math:: \alpha = \frac{1}{K} \frac{\lVert \sum_t \tau_t \rVert_1}{\lVert \tau \rVert_1}

    over all merged tensors; 1/K where nothing is left of the merged vector.

    Source: Wang et al. 2025, LiNeS: post-training layer scaling (arXiv 2410.17146). Differs: the authors find
    a layer's number by looking for 0, 1, 2, ... anywhere in a name, so that `layer.3.mlp.0` is taken for
    layer 0; where they trim task vectors beforehand they take the trimmed ones for α.
    """

    beta: FiniteFloat = 0.5
    """How much more the last layer is scaled than the first; the authors try 0.1, 0.2, ... 1.0 on validation
    data."""
    alpha: FiniteFloat | None = None
    """Factor of the first layer; null takes it from the norms. For a single task vector the authors try
    several and take 1 - alpha as beta."""
    layers: str = LAYERS
    """Regular expression that finds the number of a layer, its one group, in a tensor's name; the first match
    counts, and what stands before the number names the stack of layers."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.layers).groups
        except re.error as error:
            raise ValueError(f"layers: '{self.layers}' is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"layers: '{self.layers}' must have one group, the layer's number")

    def describe(self) -> str:
        """Return what is done, for a model card."""
        alpha = "‖Σₜ τₜ‖₁ / (K ‖τ‖₁)" if self.alpha is None else f"{self.alpha:g}"
        return f"layer l of L times α + {self.beta:g} l/(L − 1), with α = {alpha} (LiNeS, arXiv 2410.17146)"


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
