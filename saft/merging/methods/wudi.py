"""WUDI: a merged task vector that disturbs none of the tasks' input subspaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.algebra.adam import adam
from saft.merging.algebra.svd import is_matrix
from saft.merging.method import Steps, Tensorwise, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Wudi"]


@METHODS.register("wudi")
@dataclass(frozen=True, kw_only=True)
class Wudi(Tensorwise):
    """Moves the sum of the task vectors, by descent, to where it disturbs each task the least.

    The rows of a task's matrix τₜ lie in the space of the inputs that the layer has seen; so what the merged
    matrix adds to τₜ should be orthogonal to these rows. Adam descends, matrix by matrix, from the sum of
    the task vectors; its steps are about as long as the learning rate, whatever the size of the task vectors.
    No data is needed. A matrix is taken as [outputs, inputs], as torch's linear layers have it. Every matrix
    is treated so, embeddings as well; of other tensors (biases, norms, convolutions) the mean is taken. A
    task vector of zeros disturbs nothing and is left out. A step multiplies an [m, n] with an [n, n] matrix.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> vectors = torch.tensor([[[0.1, 0.0]], [[0.1, 0.1]]])
        >>> merge_task_vectors(Wudi(iterations=2000, learning_rate=1e-3), vectors)
        tensor([[0.1000, 0.1000]])
    """

    iterations: int = parameter(300, "steps of Adam", at_least=0)
    learning_rate: float = parameter(1e-5, "of Adam: about how far an entry moves in a step", above=0)

    formula = "τ = argmin Σₜ ‖(τ − τₜ) τₜᵀ‖² / ‖τₜ‖², by Adam from Σₜ τₜ;  θ = θ0 + λ τ"
    card_template = (
        "of each matrix the sum of the task vectors, moved to where it disturbs the tasks less ({iterations} "
        "steps of Adam, learning rate {learning_rate:g}); of other tensors the mean"
    )
    source = (
        "Cheng et al. 2025, Whoever started the interference should end it: guiding data-free model merging "
        "via task vectors (arXiv 2503.08099)"
    )
    deviations = "in the order of multiplication only; a task of zeros gives NaN in the authors' code"
    scaling = 1.0
    scaling_grid = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

    def steps(self, tasks: int, count: int) -> Steps:
        """Return the descent for a tensor; no statistic is needed."""
        yield from ()

        def merge(block: Block) -> Tensor:
            added = total(block.task_vectors)
            if not is_matrix(block):
                return added / tasks
            # The gradient is 2 (τ Σₜ Gₜ − Σₜ τₜ Gₜ) with Gₜ = τₜᵀ τₜ / ‖τₜ‖²: one product for all tasks.
            inputs, target = added.new_zeros(added.shape[1], added.shape[1]), torch.zeros_like(added)
            for task_vector in block.task_vectors:
                norm = float(torch.linalg.vector_norm(task_vector, dtype=torch.float64))
                if norm > 0:
                    directions = (task_vector / norm).T @ (task_vector / norm)
                    inputs += directions
                    target += task_vector @ directions
            return adam(
                added,
                lambda point: (point @ inputs).sub_(target).mul_(2),
                self.iterations,
                self.learning_rate,
            )

        return merge
