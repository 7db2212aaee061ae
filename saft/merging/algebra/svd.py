"""Singular value decompositions of matrices that are merged: the directions that the numbers determine."""

from __future__ import annotations

import torch
from torch import Tensor

from saft.merging.stream.block import Block

__all__ = ["decompose", "is_matrix", "polar"]

_NOTHING = 2.0**-20
"""Singular values below this share of the largest are rounding: eight times that of float32."""


def is_matrix(block: Block) -> bool:
    """Return whether the tensor is a matrix; one without elements is not.

    Args:
        block: a whole tensor.

    Example:
        >>> is_matrix(Block(torch.ones(2, 3, 4), torch.zeros(3, 4)))
        True
    """
    return block.base.dim() == 2 and block.base.numel() > 0


def decompose(matrix: Tensor, most: int | None = None, beside: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of a matrix, without the directions that it does not have.

    It goes through the eigenvectors of A Aᵀ or Aᵀ A, whichever is smaller, in float64: squaring the singular
    values halves the digits, and half of float64's are more than float32 has. For a wide matrix this takes
    a third of the time of a decomposition in float32.

    Args:
        matrix: [m, n], m and n at least 1.
        most: number of directions, the largest first; default: all.
        beside: a size beside which singular values can be rounding, if it is more than the largest of them:
            for a matrix that is left of a larger one, the norm of that.

    Returns:
        Left vectors [m, rank], singular values [rank] in descending order, right vectors [rank, n], float64.
        The rank is that within rounding of float32, and 0 for zeros.

    Example:
        >>> left, values, right = decompose(torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
        >>> values
        tensor([3., 2.], dtype=torch.float64)
        >>> (left * values @ right).abs()
        tensor([[0., 2., 0.],
                [3., 0., 0.]], dtype=torch.float64)
    """
    matrix = matrix.double()
    wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    values, vectors = squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    rank = int((values > max(float(values[0]), beside) * _NOTHING).sum())
    rank = rank if most is None else min(rank, most)
    values, vectors = values[:rank], vectors[:, :rank]
    if wide:
        return vectors, values, vectors.T @ matrix / values.unsqueeze(1)
    return matrix @ vectors / values, values, vectors.T


def polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix whose singular values are one, or zero where the matrix has no direction.

    For columns that are linearly independent these are the orthonormal columns nearest to them (Procrustes).

    Args:
        matrix: [m, n], of any size.

    Returns:
        U Vᵀ of its singular value decomposition, float64 [m, n].

    Example:
        >>> polar(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).abs().round(decimals=6)
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """
    if matrix.numel() == 0:
        return matrix.double()
    left, _, right = decompose(matrix)
    return left @ right
