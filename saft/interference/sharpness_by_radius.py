"""Worst-case sharpness at several radii, in the metric of SAM and in that of ASAM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator
from torch import Tensor, nn

from saft.config import Count, Positive, checked, distinct
from saft.interference.loss import Batch, LossMeasure
from saft.interference.quantity import IN_LOSS, MEASURES, Measured, Passes, Quantity
from saft.interference.sharpness import worst_case_sharpness

__all__ = ["SharpnessByRadius"]

Radii = Annotated[tuple[Positive, ...], AfterValidator(distinct)]


@MEASURES.register("sharpness_by_radius")
@checked
@dataclass(frozen=True)
class SharpnessByRadius(LossMeasure):
    """Largest increase of the loss within several radii, in the metrics of SAM and of ASAM.

    Args:
        radii: in weight space (SAM).
        adaptive_radii: in the space where each weight is in units of its own size (ASAM).
        n_steps: ascent steps; more find a worse point, at their price.

    Example:
        >>> SharpnessByRadius(radii=(0.02,), adaptive_radii=(0.5,), n_steps=2).cost(tasks=4)
        Passes(forward=8, backward=16, merges=0.0)

    Source: Foret et al. 2021, arXiv 2010.01412; Kwon et al. 2021, arXiv 2102.11600; Andriushchenko et al.
        2023, "A Modern Look at the Relationship between Sharpness and Generalization", arXiv 2302.07011, for
        why one radius and one metric do not tell two models apart.
    """

    radii: Radii = (0.01, 0.05)
    adaptive_radii: Radii = (0.5, 2.0)
    n_steps: Count = 2

    quantities: ClassVar[dict[str, Quantity]] = {
        "sharpness_by_radius": Quantity(
            "largest increase of the loss within a radius of the weights",
            IN_LOSS,
            per="grid",
            axes=("task", "radius"),
            definition="max over ‖e‖ ≤ rho of L(w + e) − L(w)",
            source="Foret et al. 2021, arXiv 2010.01412",
        ),
        "adaptive_sharpness_by_radius": Quantity(
            "largest increase of the loss within a radius, each weight in units of its own size",
            IN_LOSS,
            per="grid",
            axes=("task", "radius"),
            definition="max over ‖e / |w|‖ ≤ rho of L(w + e) − L(w)",
            source="Kwon et al. 2021, arXiv 2102.11600",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return a pass forward and backward for each step, and one more forward, of each task and radius."""
        balls = len(self.radii) + len(self.adaptive_radii)
        return Passes(forward=tasks * balls, backward=tasks * balls * self.n_steps)

    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> dict[str, Measured]:
        """Return radius -> largest increase, in both metrics."""
        moved = None if parameters is None else list(parameters)

        def at(rho: float, adaptive: bool) -> float:
            return worst_case_sharpness(module, loss, batches, rho, adaptive, self.n_steps, moved).worst_case

        return {
            "sharpness_by_radius": {f"{rho:g}": at(rho, False) for rho in self.radii},
            "adaptive_sharpness_by_radius": {f"{rho:g}": at(rho, True) for rho in self.adaptive_radii},
        }
