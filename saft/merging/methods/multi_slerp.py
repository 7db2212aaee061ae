"""Multi-SLERP: barycentric interpolation between any number of models on the sphere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra import gram
from saft.merging.method import Steps, Tensorwise, for_each_task, parameter
from saft.merging.methods import METHODS
from saft.merging.parameters import not_to_be_normalized
from saft.merging.stream.block import Block

__all__ = ["MultiSlerp"]

_NORM = 1e-8  # below which a vector has no direction, as in mergekit


@METHODS.register("multi_slerp")
@dataclass(frozen=True, kw_only=True)
class MultiSlerp(Tensorwise):
    """Takes the weighted mean of the models' directions, and gives it the weighted mean of their norms.

    mergekit goes from the mean into the tangent space, averages there, and comes back to the sphere. The
    average there is zero, since the mean was taken with the same weights: so it comes back to the mean.
    Where the mean direction is zero, as with two opposite models of equal weight, the weighted average of the
    tensors is taken. The sphere is around zero, or around the base: then it is the task vectors that are
    merged. A tensor of zeros has no direction: it counts only in the mean of the norms.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(MultiSlerp(), torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        tensor([2.1213, 2.1213])
    """

    weights: tuple[float, ...] = parameter((1.0,), "one for each model in their order, or one for all")
    normalize: bool = parameter(True, "divide the weights by their sum")
    center: str = parameter("zero", "of the sphere", choices=("zero", "base"))

    formula = "θ = c + Σₜ wₜ ‖θₜ − c‖ · u / ‖u‖;  u = Σₜ wₜ (θₜ − c) / ‖θₜ − c‖;  c = 0 or θ0"
    card_template = (
        "the weighted mean of the models' directions and of their norms, tensor by tensor (weights "
        "{weights}, normalized: {normalize}, sphere around {center})"
    )
    source = "Goddard 2025, Multi-SLERP; as multislerp in mergekit (Goddard et al. 2024, arXiv 2403.13257)"
    deviations = (
        "nothing, but for rounding, where mergekit gives a result; it stops where the mean direction of "
        "three or more models is zero"
    )
    scaling = 1.0
    scaling_grid = (1.0,)

    def problems(self, tasks: int) -> list[str]:
        """Return what is wrong with merging this number of tasks."""
        return super().problems(tasks) + (not_to_be_normalized(self.weights) if self.normalize else [])

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the interpolation; no statistic is needed."""
        yield from ()
        weights = for_each_task(self.weights, tasks, torch.float64).flatten()
        if self.normalize:
            weights = weights / weights.sum()

        def merge(block: Block) -> Tensor:
            products = gram.around(block, self.center)
            coefficients = self._coefficients(products, weights.to(products.device))
            return gram.combination_around(block, self.center, coefficients)

        return merge

    def _coefficients(self, products: Tensor, weights: Tensor) -> Tensor:
        norms = products.diagonal().sqrt()
        shares = torch.where(norms > _NORM, weights / norms, 0)
        length = (shares @ products @ shares).clamp(min=0).sqrt()
        return shares * ((weights * norms).sum() / length) if length > _NORM else weights
