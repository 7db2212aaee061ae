"""Merges that lie in the span of the models: found only from the models' inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from saft.merging.method import total
from saft.merging.stream.block import Block

__all__ = ["around", "combination", "combination_around", "of_rows", "of_task_vectors", "of_weights"]

_COLUMNS = 1 << 16  # taken to float64 at a time, so that no second copy of the models is made


def of_weights(block: Block) -> Tensor:
    """Return the inner products of the fine-tuned weights: float64 [n_tasks, n_tasks].

    Args:
        block: a whole tensor; its task vectors are [n_tasks, *shape].

    Example:
        >>> of_weights(Block(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2)))
        tensor([[ 5.,  5.],
                [ 5., 10.]], dtype=torch.float64)
    """
    return _products(block.task_vectors, block.base.flatten())


def of_task_vectors(block: Block) -> Tensor:
    """Return the inner products of the task vectors: float64 [n_tasks, n_tasks].

    Args:
        block: a whole tensor; its task vectors are [n_tasks, *shape].

    Example:
        >>> of_task_vectors(Block(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2)))
        tensor([[1., 0.],
                [0., 4.]], dtype=torch.float64)
    """
    return _products(block.task_vectors)


def of_rows(block: Block) -> Tensor:
    """Return the inner products of the task vectors for each row of a matrix: [rows, n_tasks, n_tasks].

    A row of a convolution is one of its filters.

    Args:
        block: a whole tensor; its task vectors are [n_tasks, rows, ...].

    Example:
        >>> of_rows(Block(torch.ones(2, 3, 4), torch.zeros(3, 4))).shape
        torch.Size([3, 2, 2])
    """
    rows = block.task_vectors.flatten(2).transpose(0, 1)
    parts = torch.split(rows, max(_COLUMNS // max(rows.shape[2], 1), 1))
    return torch.cat([torch.bmm(part.double(), part.double().mT) for part in parts])


def combination(block: Block, coefficients: Tensor) -> Tensor:
    """Return Σₜ cₜ θₜ − θ0: the task vector of a linear combination of the fine-tuned weights.

    It is computed as Σₜ cₜ τₜ + (Σₜ cₜ − 1) θ0, which does not lose the task vectors' last digits beside
    weights that are much larger.

    Args:
        block: a whole tensor.
        coefficients: c, float64 [n_tasks].

    Returns:
        float32 [*shape].

    Example:
        >>> block = Block(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2))
        >>> combination(block, torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([2., 3.])
    """
    result = block.base * float(coefficients.sum() - 1)
    for coefficient, task_vector in zip(coefficients.tolist(), block.task_vectors, strict=True):
        result += task_vector * coefficient
    return result


def around(block: Block, center: str) -> Tensor:
    """Return the inner products of the models as seen from "zero", or from the "base".

    Args:
        block: a whole tensor.
        center: "zero" or "base".

    Returns:
        float64 [n_tasks, n_tasks].
    """
    return of_weights(block) if center == "zero" else of_task_vectors(block)


def combination_around(block: Block, center: str, coefficients: Tensor) -> Tensor:
    """Return the task vector of center + Σₜ cₜ (θₜ − center); see `combination` for the center "zero".

    Args:
        block: a whole tensor.
        center: "zero" or "base".
        coefficients: c, float64 [n_tasks].

    Returns:
        float32 [*shape].
    """
    if center == "zero":
        return combination(block, coefficients)
    rows = zip(coefficients.tolist(), block.task_vectors, strict=True)
    return total(torch.stack([row * coefficient for coefficient, row in rows]))


def _products(task_vectors: Tensor, origin: Tensor | None = None) -> Tensor:
    rows = task_vectors.reshape(len(task_vectors), task_vectors[0].numel())
    result = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, start : start + _COLUMNS].double()
        if origin is not None:
            part = part + origin[start : start + _COLUMNS]  # not in place: it may be the input itself
        result += part @ part.T
    return result
