"""Overlap of the weights that two tasks move; of trimmed task vectors, of their largest entries."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saft.interference.quantity import MEASURES, Quantity
from saft.interference.weights import WeightMeasure, of_task_vectors

__all__ = ["Overlap", "overlap"]


def overlap(task_vectors: Tensor) -> Tensor:
    r"""Return how much the sets of weights that two tasks move overlap.

    .. math:: o_{st} = \frac{|S_s \cap S_t|}{\min(|S_s|, |S_t|)}, \qquad S_t = \{i : x_{ti} \ne 0\}

    Args:
        task_vectors: `[n_tasks, n]` or `[n_tasks, ...]`, floating point.

    Returns:
        `[n_tasks, n_tasks]`, float64, symmetric, in [0, 1]; 0 with a task that moves nothing. Sets of a
        share d of all weights, drawn at random, would give d.

    Example:
        >>> import torch
        >>> overlap(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])).tolist()
        [[1.0, 0.5], [0.5, 1.0]]

    Source: the overlap coefficient, of the masks that TALL-masks and Consensus (Wang et al. 2024, arXiv
        2405.07813) compare.
    """
    return of_task_vectors(Overlap(), task_vectors)["overlap"]


@MEASURES.register("overlap")
class Overlap(WeightMeasure):
    """How much the sets of weights that two tasks move overlap.

    Example:
        >>> import torch
        >>> Overlap().sums(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """

    quantities: ClassVar[dict[str, Quantity]] = {
        "overlap": Quantity(
            "of the weights that one of two tasks moves, whichever moves fewer, the share that both move",
            "%",
            per="pair",
            scale=100,
            decimals=1,
            definition="|S_s ∩ S_t| / min(|S_s|, |S_t|), S_t the weights that t moves",
            cell="of the weights that one of the two tasks moves, whichever moves fewer, the share that both "
            "move; the same both ways",
        )
    }

    def sums(self, block: Tensor) -> Tensor:
        """Return how many coordinates each pair moves, `[n_tasks, n_tasks]`.

        Args:
            block: float64 `[n_tasks, n]`.
        """
        moved = (block != 0).to(block.dtype)
        return moved @ moved.T

    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the matrix of overlaps.

        Args:
            sums: what `sums` returned, added up over all blocks.
        """
        counts = sums.diagonal()
        fewer = counts.unsqueeze(0).minimum(counts.unsqueeze(1))
        return {"overlap": (sums / fewer.clamp_min(1.0))}
