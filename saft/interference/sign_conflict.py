"""Sign conflicts of task vectors: where tasks pull a weight in opposite directions."""

from __future__ import annotations

import torch
from torch import Tensor

from saft.interference.weights import MEASURES

__all__ = ["SignConflict"]


@MEASURES.register("sign_conflict")
class SignConflict:
    """How often, and by how much, task vectors disagree in sign.

    A task moves coordinate i when its entry is not zero. Let m_i be the number of tasks that move i, and M
    the coordinates with m_i >= 2.

    ``rate = |{i in M: one entry is positive and one negative}| / |M|``

    ``by_chance = mean over i in M of 1 - 2^(1 - m_i)``, the rate that independent fair signs would give

    ``weighted = 1 - sum_i |sum_t x_ti| / sum_i sum_t |x_ti|``, the share of all movement that cancels

    Returns:
        ``{"rate", "by_chance", "weighted"}``, each in [0, 1]; 0 where M is empty, or nothing moves.

    Example:
        >>> measure = SignConflict()
        >>> measure.value(measure.sums(torch.tensor([[1.0, 2.0, 0.0], [-1.0, 2.0, 5.0]]).double()))
        {'rate': 0.5, 'by_chance': 0.5, 'weighted': 0.1818...}

    Source:
        Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708, section 3: sign conflict over trimmed task
        vectors. The rate alone grows with the number of tasks, hence `by_chance`; `weighted` counts a large
        disagreement more than a tiny one, which the paper does not.
    """

    def sums(self, block: Tensor) -> Tensor:
        """Return |M|, conflicts, those expected by chance, magnitude of the sum, sum of magnitudes."""
        positive, negative = block > 0, block < 0
        n_movers = (positive.sum(dim=0) + negative.sum(dim=0)).double()
        shared = n_movers >= 2
        conflict = positive.any(dim=0) & negative.any(dim=0)
        by_chance = (1 - torch.exp2(1 - n_movers)).where(shared, 0.0)
        return torch.stack(
            [
                shared.sum(),
                conflict.sum(),
                by_chance.sum(),
                block.sum(dim=0).abs().sum(),
                block.abs().sum(),
            ]
        ).double()

    def value(self, sums: Tensor) -> dict[str, float]:
        """Return the three rates."""
        n_shared, n_conflict, by_chance, magnitude_of_sum, sum_of_magnitudes = sums.tolist()
        return {
            "rate": n_conflict / n_shared if n_shared else 0.0,
            "by_chance": by_chance / n_shared if n_shared else 0.0,
            "weighted": max(0.0, 1 - magnitude_of_sum / sum_of_magnitudes) if sum_of_magnitudes else 0.0,
        }
