"""SMILE: a mixture of low-rank experts, routed by the directions in which each task reads its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.files.tensorfile import Layout
from saft.merging.inputs.tensor_names import can_be_factored
from saft.merging.method import Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod, PerTaskParts, SplitSteps
from saft.merging.stream.block import Block

__all__ = ["Smile"]


@METHODS.register("smile")
@dataclass(frozen=True, kw_only=True)
class Smile(PerTaskMethod, Tensorwise):
    """Keeps a low-rank expert of each task for each linear layer, and a router that chooses for each token.

    A layer's task vector is decomposed, Δₜ = U S Vᵀ. Its expert is the part of the `rank` largest singular
    values, and the whole task vector of the bias; its router the `gate_rank` first columns of V. In the
    mixture each token goes, in each layer, to the `top_k` experts whose router sees most of it:

        wₜ = softmaxₜ(‖router x‖₂), zero but for the largest top_k, which are divided by their sum
        y = W0 x + b0 + λ Σₜ wₜ (Eₜ x + Δbₜ)

    `saft.load_mixture` gives the mixture as a torch module. The model of one task, of `saft.load_task`, is
    the base with the experts of this task. Linear layers are taken to be the matrices that are called
    `*.weight` and are not tables of embeddings; all else stays as in the base. Where a task vector has a
    lower rank than the router, the directions that are missing see nothing: a task that left a layer as it
    was draws no token there that another task's router sees. A rank above that of the matrix keeps it whole.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Smile(rank=1), torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])).abs()
        tensor([[[3., 0.],
                 [0., 0.]]])
    """

    rank: int = parameter(128, "singular values that each expert keeps", at_least=1)
    gate_rank: int = parameter(1, "directions by which the router knows each task", at_least=1)
    top_k: int = parameter(1, "experts that each token goes to, at most the number of models", at_least=1)

    formula = (
        "Δₜ = U S Vᵀ;  Eₜ = Uₖ Sₖ Vₖᵀ;  wₜ = top_k of softmaxₜ(‖Vᵀx‖₂ of the first gate_rank);  "
        "y = θ0 x + λ Σₜ wₜ Eₜ x"
    )
    card_template = (
        "in each linear layer, for each token, the {top_k} of the tasks' low-rank experts (rank {rank}) "
        "whose first {gate_rank} right singular vectors see most of it"
    )
    source = (
        "Tang et al. 2024, SMILE: zero-shot sparse mixture of low-rank experts construction from "
        "pre-trained foundation models (arXiv 2408.10174)"
    )
    deviations = (
        "a router has no rows for singular values that are zero, where fusion_bench takes what the "
        "decomposition happens to give; no layer is left out for being nearly equal to the base's"
    )
    gives = "a mixture of experts, from which one model per task can be taken too"
    shares = False
    scaling = 1.0
    scaling_grid = (0.8, 0.9, 1.0, 1.1, 1.2)

    def problems(self, tasks: int) -> list[str]:
        """Return also that a token cannot go to more experts than there are."""
        problems = super().problems(tasks)
        if self.top_k > tasks:
            problems.append(f"top_k: must be at most the number of models, {tasks}, but is {self.top_k}")
        return problems

    def wanted(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the weights of linear layers, and their biases."""
        weights = [name for name, shape in shapes.items() if can_be_factored(name, shape)]
        biases = [name.removesuffix("weight") + "bias" for name in weights]
        return [*weights, *(name for name in biases if len(shapes.get(name, ())) == 1)]

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Return the factors of an expert and the rows of its router; a bias is kept whole."""
        if len(shape) != 2:
            return {"bias": (torch.float32, shape)}
        rank, gate_rank = (min(value, *shape) for value in (self.rank, self.gate_rank))
        return {
            "SV": (torch.float32, (rank, shape[1])),
            "U": (torch.float32, (shape[0], rank)),
            "router": (torch.float32, (gate_rank, shape[1])),
        }

    def split(self, tasks: int, count: int) -> SplitSteps:
        """Return the decomposition; no statistic is needed."""
        yield from ()
        rescalers = torch.ones(tasks, dtype=torch.float64)

        def keep(block: Block) -> PerTaskParts:
            if block.base.dim() != 2:
                return PerTaskParts(None, {"bias": block.task_vectors}, rescalers)
            parts = [self._decomposed(task_vector) for task_vector in block.task_vectors]
            return PerTaskParts(
                None, {name: torch.stack([pieces[name] for pieces in parts]) for name in parts[0]}, rescalers
            )

        return keep

    def _decomposed(self, task_vector: Tensor) -> dict[str, Tensor]:
        left, values, right = torch.linalg.svd(task_vector, full_matrices=False)
        largest = values.amax() if len(values) else 0
        # Past the numerical rank the directions are arbitrary: they differ between libraries.
        significant = values > largest * max(task_vector.shape) * torch.finfo(values.dtype).eps
        seen = right[: self.gate_rank]
        return {
            "SV": values[: self.rank].unsqueeze(1) * right[: self.rank],
            "U": left[:, : self.rank].clone(),  # a view would hold the whole of it
            "router": torch.where(significant[: self.gate_rank].unsqueeze(1), seen, 0),
        }

    def restored(
        self, shape: tuple[int, ...], vector: Tensor | None, part: Mapping[str, Tensor], rescaler: float
    ) -> Tensor:
        """Return U · SV, or the bias."""
        return part["U"] @ part["SV"] if len(shape) == 2 else part["bias"]
