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
        """Return conflicts, magnitude of the sum, sum of magnitudes, then coordinates by number of movers."""
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

    def value(self, sums: Tensor) -> dict[str, float]:
        """Return the three rates."""
        n_conflict, magnitude_of_sum, sum_of_magnitudes, *n_by_movers = sums.tolist()
        shared = dict(enumerate(n_by_movers[2:], start=2))
        n_shared = sum(shared.values())
        by_chance = sum(n * (1 - 2.0 ** (1 - movers)) for movers, n in shared.items())
        return {
            "rate": n_conflict / n_shared if n_shared else 0.0,
            "by_chance": by_chance / n_shared if n_shared else 0.0,
            "weighted": max(0.0, 1 - magnitude_of_sum / sum_of_magnitudes) if sum_of_magnitudes else 0.0,
        }
