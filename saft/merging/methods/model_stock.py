"""Model Stock: the average of the models, drawn towards the base by the angle between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra import gram
from saft.merging.method import Steps, Tensorwise, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["ModelStock"]


@METHODS.register("model_stock")
@dataclass(frozen=True, kw_only=True)
class ModelStock(Tensorwise):
    """Takes the average of the models and goes from it towards the base, the further the wider their angle.

    It is meant for models of one task that were fine-tuned from one base with different seeds. Task vectors
    of different tasks are nearly orthogonal; then the share of the average is nearly zero, and what
    comes out is nearly the base. The paper has one angle; with more than two models it is taken from the mean
    of the cosines of all pairs (as mergekit does) or from the mean of their angles (as fusion_bench
    does). A negative mean cosine gives a negative share. A task vector of zeros has a cosine of zero with
    every other. Where the share has no value, because the directions add up to zero, the base comes out.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(ModelStock(), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        tensor([0.8284, 0.4142])
    """

    mean_of: str = parameter(
        "cosines", "what is averaged over the pairs of models", choices=("cosines", "angles")
    )
    filter_wise: bool = parameter(
        False,
        "an angle for each row of a matrix, and for each filter of a convolution, instead of each tensor",
    )

    formula = "θ = θ0 + t · (1/K) Σₜ τₜ;  t = K cos ω / (1 + (K − 1) cos ω);  ω = the angle between the τₜ"
    card_template = (
        "the average of the models, drawn towards the base by the angle between them (mean of {mean_of}, "
        "per row: {filter_wise})"
    )
    source = "Jang et al. 2024, Model Stock: all we need is just a few fine-tuned models (arXiv 2403.19522)"
    deviations = (
        "nothing for two models; mergekit and fusion_bench take a pair of very short task vectors for nearly "
        "orthogonal, here its cosine is computed in float64"
    )
    scaling = 1.0
    scaling_grid = (1.0,)
    min_models = 2

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the average drawn towards the base; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            mean = total(block.task_vectors) / tasks
            if not self.filter_wise or mean.dim() < 2:
                return mean * float(self._share(gram.of_task_vectors(block)))
            shares = self._share(gram.of_rows(block)).to(mean.dtype)
            return mean * shares.view(-1, *[1] * (mean.dim() - 1))

        return merge

    def _share(self, products: Tensor) -> Tensor:
        """Return t, [...], from the inner products of the task vectors, [..., n_tasks, n_tasks]."""
        tasks = products.shape[-1]
        norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = norms.unsqueeze(-1) * norms.unsqueeze(-2)
        cosines = torch.where(scale > 0, products / scale, 0).clamp(-1, 1)
        first, second = torch.triu_indices(tasks, tasks, offset=1)
        pairs = cosines[..., first, second]
        cosine = pairs.mean(-1) if self.mean_of == "cosines" else pairs.arccos().mean(-1).cos()
        rest = 1 + (tasks - 1) * cosine
        return torch.where(rest.abs() > 1e-6, tasks * cosine / rest, 0)
