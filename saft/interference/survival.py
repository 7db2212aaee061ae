"""Survival: how much of every task vector is left in a merge."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import MergedWeightMeasure

__all__ = ["Survival"]


@MEASURES.register("survival")
class Survival(MergedWeightMeasure):
    r"""How much of every task vector is left in the merge, along itself.

    .. math:: s_t = \frac{\langle \lambda m, \tau_t \rangle}{\lVert \tau_t \rVert^2}, \qquad
       c_t = \frac{\langle m, \tau_t \rangle}{\lVert m \rVert \lVert \tau_t \rVert}

    1 means that the merge goes as far in the direction of the task as its own model did.

    Example:
        >>> block = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 1.0]])     # the last row is the merge
        >>> Survival().values(Survival().sums(block))["survival"].tolist()
        [0.5, 0.5]
    """

    quantities: ClassVar[dict[str, Quantity]] = {
        "survival": Quantity(
            "share of a task vector's length that is left of it in the merge, along its own direction",
            "%",
            per="task",
            scale=100,
            decimals=1,
            definition="⟨λm, τ_t⟩ / ‖τ_t‖²",
        ),
        "merge_cosine": Quantity(
            "cosine of the merged vector and a task's own",
            per="task",
            decimals=3,
            definition="⟨m, τ_t⟩ / (‖m‖ ‖τ_t‖)",
        ),
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return the inner products of all rows, `[n_tasks + 1, n_tasks + 1]`.

        Args:
            block: float64 `[n_tasks + 1, n]`; the last row is lambda times the merged vector.
        """
        return block @ block.T

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return both for each task; 0 of a task that moves nothing.

        Args:
            sums: what `sums` returned, added up over all blocks.
        """
        inner, squares = sums[-1, :-1], sums.diagonal()
        lengths = (squares[:-1] * squares[-1]).sqrt()
        return {
            "survival": torch.where(squares[:-1] > 0, inner / squares[:-1].clamp_min(1e-300), 0.0),
            "merge_cosine": torch.where(lengths > 0, inner / lengths.clamp_min(1e-300), 0.0).clamp(-1.0, 1.0),
        }
