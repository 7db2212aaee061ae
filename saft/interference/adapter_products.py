"""Inner products of what LoRA adapters change, from their small matrices: nothing is multiplied out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saft.merging.inputs.factors import Factors

__all__ = ["adapter_products"]


def adapter_products(factors: Sequence[Factors | None]) -> Tensor:
    r"""Return the inner product of what every two adapters change of one tensor.

    .. math:: \langle s B A, s' B' A' \rangle = s s' \sum_{ij} (B^\top B')_{ij} (A A'^\top)_{ij}

    Args:
        factors: of each adapter, all of one tensor of the base; None of one that leaves the tensor as it is.

    Returns:
        `[n_tasks, n_tasks]`, float64.

    Example:
        >>> one = Factors(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [1.0]]))
        >>> adapter_products([one, None]).tolist()      # of [[1, 2], [1, 2]] with itself
        [[10.0, 0.0], [0.0, 0.0]]
    """
    products = torch.zeros(len(factors), len(factors), dtype=torch.float64)
    for s, first in enumerate(factors):
        for t, second in enumerate(factors[: s + 1]):
            if first is None or second is None:
                continue
            up = first.up.double().T @ second.up.double()
            down = first.down.double() @ second.down.double().T
            products[s, t] = products[t, s] = first.scale * second.scale * (up * down).sum()
    return products
