"""RegMean: of every linear layer the weights whose outputs are nearest to those of all models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Steps, Tensorwise, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["RegMean"]


@METHODS.register("regmean")
@dataclass(frozen=True, kw_only=True)
class RegMean(Tensorwise):
    """Merges every linear layer by least squares on its models' inputs, and averages everything else.

    The merged weights are those whose outputs differ least, in squares summed over the tasks, from the
    outputs of each model on its own task's inputs. That takes the mean over tokens of the inner products of
    each layer's inputs. Products of different inputs are multiplied by `off_diagonal`, which draws the result
    towards an average weighted by each input's size. Biases, embeddings and layer norms are averaged.

    The equations are solved for the task vectors, in float64, with `ridge` times the mean of the diagonal
    added to it, and the average as what it draws towards: so an input that no task uses gets the average, and
    so does a layer through which no example goes. Padding counts only on request: how much there is depends
    on which examples meet in a batch.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(RegMean(), torch.tensor([[[1.0, 2.0]], [[3.0, -2.0]]]))        # no data
        tensor([[2., 0.]])
    """

    off_diagonal: float = parameter(
        0.9, "factor of the products of different inputs; 1 is plain least squares", at_least=0, at_most=1
    )
    ridge: float = parameter(
        1e-6,
        "added to the diagonal, times its mean; the larger, the nearer to the average",
        at_least=1e-12,  # less is lost beside the diagonal, and inputs that depend on each other stop it
        at_most=1,
    )

    padding: str = parameter(
        "left_out",
        "whether the inputs of padding count, as they do in the authors' program",
        choices=("left_out", "counted"),
    )

    formula = "Wᵀ = (Σₜ Gₜ)⁻¹ Σₜ Gₜ Wₜᵀ;  Gₜ = mean of x xᵀ, off the diagonal × α;  else θ = (1/K) Σₜ θₜ"
    card_template = (
        "of every linear layer the least-squares solution on its models' inputs (products of different "
        "inputs times {off_diagonal:g}, ridge {ridge:g}, padding {padding}), of everything else the mean of "
        "the models"
    )
    source = (
        "Jin et al. 2023, Dataless knowledge fusion by merging weights of language models (arXiv 2212.09849)"
    )
    deviations = (
        "the authors have no ridge, so that unused inputs stop their program, count padding (padding "
        "counted), and choose α between 0.1 and 1"
    )
    scaling = 1.0
    scaling_grid = (1.0,)
    needs = "base, models, examples of each task"
    calibration = "gram"

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the solution of a layer; no statistic of the weights is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            rows, columns = (block.statistics.get(kind) for kind in ("gram_of_rows", "gram"))
            if rows is not None:
                return self._solve(rows, block.task_vectors)
            if columns is not None:
                return self._solve(columns, block.task_vectors.mT).T
            return total(block.task_vectors) / tasks

        return merge

    def _solve(self, products: Tensor, task_vectors: Tensor) -> Tensor:
        """Return [inputs, outputs] of products [n_tasks, inputs, inputs], task vectors [n_tasks, in, out]."""
        mean = total(task_vectors) / len(task_vectors)
        matrix = torch.zeros_like(products[0], dtype=torch.float64)
        right = torch.zeros_like(mean, dtype=torch.float64)
        for own, task_vector in zip(products, task_vectors, strict=True):
            scaled = own.double() * self.off_diagonal
            scaled.diagonal().copy_(own.diagonal())
            matrix += scaled
            right += scaled @ task_vector.double()
        ridge = self.ridge * float(matrix.diagonal().mean())
        if ridge == 0:
            return mean
        matrix.diagonal().add_(ridge)
        solution: Tensor = torch.linalg.solve(matrix, right.add_(mean, alpha=ridge))
        return solution.to(mean.dtype)
