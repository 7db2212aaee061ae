"""Sign conflicts of task vectors: where tasks pull a weight in opposite directions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import WeightMeasure, of_task_vectors

__all__ = ["SignConflict", "sign_conflict"]


def sign_conflict(task_vectors: Tensor) -> dict[str, float]:
    """Return how often, and by how much, task vectors disagree in sign.

    A task moves coordinate i when its entry is not zero. Let m_i be the number of tasks that move i, and M
    the coordinates with m_i >= 2.

    ``sign_conflict = |{i in M: one entry is positive and one negative}| / |M|``

    ``sign_conflict_by_chance = mean over i in M of 1 - 2^(1 - m_i)``, what independent fair signs would give

    ``sign_conflict_weighted = 1 - sum_i |sum_t x_ti| / sum_i sum_t |x_ti|``, the share of all movement that
    cancels in the sum

    Args:
        task_vectors: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; summed in float64.

    Returns:
        The three by name, each in [0, 1]; 0 where M is empty, or nothing moves.

    Example:
        >>> sign_conflict(torch.tensor([[1.0, 2.0, 0.0], [-1.0, 2.0, 5.0]]))["sign_conflict"]
        0.5

    Source:
        Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708, section 3: sign conflict over trimmed task
        vectors. The rate grows with the number of tasks, hence `by_chance`; `weighted` counts a large
        disagreement more than a tiny one, which the paper does not.
    """
    return {name: value.item() for name, value in of_task_vectors(SignConflict(), task_vectors).items()}


@MEASURES.register("sign_conflict")
class SignConflict(WeightMeasure):
    """How often task vectors pull a weight in opposite directions.

    Example:
        >>> SignConflict().sums(torch.tensor([[1.0, 2.0, 0.0], [-1.0, 2.0, 5.0]])).tolist()
        [1.0, 9.0, 11.0, 0.0, 1.0, 2.0]
    """

    by_layer = ("sign_conflict",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "sign_conflict": Quantity(
            "of the weights that at least two tasks move, the share in which two disagree in sign",
            unit="%",
            scale=100,
            decimals=1,
            definition="|{i in M: one entry is positive, one negative}| / |M|, M moved by two tasks or more",
            source="Yadav et al. 2023, arXiv 2306.01708",
        ),
        "sign_conflict_by_chance": Quantity(
            "the sign conflict that independent random signs would give",
            unit="%",
            scale=100,
            decimals=1,
            definition="mean over i in M of 1 − 2^(1 − m_i), m_i tasks move i",
        ),
        "sign_conflict_weighted": Quantity(
            "the share of all movement that cancels when the task vectors are added",
            unit="%",
            scale=100,
            decimals=1,
            definition="1 − Σ_i |Σ_t τ_ti| / Σ_i Σ_t |τ_ti|",
        ),
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return conflicts, magnitude of the sum, sum of magnitudes, then coordinates by number of movers.

        Args:
            block: float64 `[n_tasks, n]`.

        Returns:
            `[3 + n_tasks + 1]`.
        """
        n_up = (block > 0).sum(dim=0, dtype=torch.int16)
        n_down = (block < 0).sum(dim=0, dtype=torch.int16)
        return torch.cat(
            [
                torch.minimum(n_up, n_down).count_nonzero().reshape(1),
                block.sum(dim=0).abs().sum().reshape(1),
                block.abs().sum().reshape(1),
                torch.bincount(n_up + n_down, minlength=block.shape[0] + 1),
            ]
        )

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the three rates, each `[]`."""
        n_conflict, magnitude_of_sum, sum_of_magnitudes, *n_by_movers = sums.tolist()
        shared = dict(enumerate(n_by_movers[2:], start=2))
        n_shared = sum(shared.values())
        by_chance = sum(n * (1 - 2.0 ** (1 - movers)) for movers, n in shared.items())
        rates = {
            "sign_conflict": n_conflict / n_shared if n_shared else 0.0,
            "sign_conflict_by_chance": by_chance / n_shared if n_shared else 0.0,
            "sign_conflict_weighted": (
                max(0.0, 1 - magnitude_of_sum / sum_of_magnitudes) if sum_of_magnitudes else 0.0
            ),
        }
        return {name: torch.tensor(rate, dtype=torch.float64) for name, rate in rates.items()}
