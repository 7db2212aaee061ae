"""The two matrices of which a LoRA adapter makes its change of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["Factors"]


@dataclass(frozen=True)
class Factors:
    r"""What an adapter adds to one tensor: :math:`s B A`, or its transpose.

    Args:
        down: A, [rank, inputs].
        up: B, [outputs, rank].
        scale: s, for LoRA α / rank.
        transposed: whether the base stores the tensor as [inputs, outputs].

    Example:
        >>> import torch
        >>> Factors(torch.ones(1, 3), torch.ones(2, 1), scale=2.0).change((2, 3))
        tensor([[2., 2., 2.],
                [2., 2., 2.]])
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    transposed: bool = False

    @property
    def rank(self) -> int:
        """Number of rows of A, and of columns of B."""
        return len(self.down)

    def change(self, shape: Sequence[int]) -> Tensor:
        """Return what is added to a tensor of this shape."""
        product = self.up @ self.down
        return (product.T if self.transposed else product).reshape(tuple(shape)).mul_(self.scale)

    def to(self, other: Tensor) -> Factors:
        """Return the same in the dtype and on the device of another tensor.

        Args:
            other: of any shape.
        """
        return replace(self, down=self.down.to(other), up=self.up.to(other))
