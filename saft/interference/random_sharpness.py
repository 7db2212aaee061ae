"""Average sharpness: the rise of the loss in random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from saft.config import Count, NonNegative, Seed, checked
from saft.interference.loss import Batch, LossMeasure
from saft.interference.quantity import IN_LOSS, MEASURES, Passes, Quantity
from saft.interference.sharpness import average_sharpness

__all__ = ["RandomSharpness"]


@MEASURES.register("random_sharpness")
@checked
@dataclass(frozen=True)
class RandomSharpness(LossMeasure):
    """Mean increase of the loss at a distance, in random directions; see `average_sharpness`.

    Args:
        radius: length of a shift; a random one has to be far longer than a worst one to be felt.
        n_samples: directions.
        seed: of the directions.

    Example:
        >>> RandomSharpness(n_samples=4).cost(tasks=2)
        Passes(forward=10, backward=0.0, merges=0.0)

    Source: Andriushchenko & Flammarion 2022, arXiv 2206.06232, with directions on the sphere.
    """

    radius: NonNegative = 2.0
    n_samples: Count = 4
    seed: Seed = 0

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The mean rise, and its standard error over the directions."""
        definition = "mean over z ~ N(0, I) of L(w + rho z / ‖z‖) − L(w)"
        source = "Andriushchenko & Flammarion 2022, arXiv 2206.06232"
        return {
            "random_sharpness": Quantity(
                f"mean increase of the loss at distance {self.radius:g} in random directions",
                IN_LOSS,
                per="task",
                definition=definition,
                source=source,
            ),
            "random_sharpness_error": Quantity(
                "standard error of that mean, from the finite number of directions",
                IN_LOSS,
                per="task",
                definition="standard deviation over the directions / √n",
                source=source,
                error_of="random_sharpness",
            ),
        }

    def cost(self, tasks: int) -> Passes:
        """Return a pass for each direction, and one at the weights, of each task."""
        return Passes(forward=tasks * (self.n_samples + 1))

    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> dict[str, float]:
        """Return the mean; and its error, where there are two directions or more."""
        measured = average_sharpness(
            module, loss, batches, self.radius, False, self.n_samples, self.seed, parameters
        )
        values = {"random_sharpness": measured.average}
        if measured.deviation is not None:
            values["random_sharpness_error"] = measured.deviation / math.sqrt(self.n_samples)
        return values
