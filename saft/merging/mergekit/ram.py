"""RAM and RAM+ (tensor-local) under mergekit's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Method, Steps, Sums, Trimming, parameter, total
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["Ram", "RamPlus"]


@dataclass(frozen=True, kw_only=True)
class _Ram(Method):
    """What both have in common: which entries a task has changed, and how many tasks have."""

    epsilon: float = parameter(1e-5, "changes up to it count as none", above=0)

    source = "Reinforced agent merging, 2026 (arXiv 2601.13572), as mergekit 0.1.5 has it"
    deviations = "computed in float32 whatever the dtype of the files"
    scaling = 1.0
    scaling_grid = (1.0,)

    def changed(self, block: Block) -> tuple[Tensor, Tensor]:
        """Return whether each task has changed an entry, bool [n_tasks, n], and how many have, [n]."""
        changed = block.task_vectors.flatten(1).abs() > self.epsilon
        return changed, total(changed.to(block.base.dtype))


@METHODS.register("mergekit_ram")
@dataclass(frozen=True, kw_only=True)
class Ram(_Ram, Elementwise):
    """Takes the mean of the changes over the tasks that have changed an entry.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Ram(), torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 4.0]]))
        tensor([1., 0., 3.])
    """

    formula = "θ = θ0 + Σₜ mₜ τₜ / max(Σₜ mₜ, 1);  mₜ = [|τₜ| > ε]"
    card_template = "mergekit's RAM: the mean of the changes beyond {epsilon:g} over the tasks that have one"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for nothing; return the merge."""
        yield from ()

        def merge(block: Block) -> Tensor:
            changed, how_many = self.changed(block)
            return total((changed * block.task_vectors.flatten(1)) / how_many.clamp(min=1))

        return merge


@METHODS.register("mergekit_ramplus_tl")
@dataclass(frozen=True, kw_only=True)
class RamPlus(_Ram, Trimming):
    """As `mergekit_ram`, but strengthens a task's changes that are its own by how much it shares.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(RamPlus(r=1.0, alpha=0.5), torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 4.0]]))
        tensor([1.5000, 0.0000, 3.0000])
    """

    r: float = parameter(0.1, "how much sharing strengthens", at_least=0)
    alpha: float = parameter(0.2, "the greatest ratio of shared to own changes that counts", at_least=0)
    granularity: Literal["model", "tensor"] = parameter(
        "tensor",
        "what changes are counted over: each tensor, as in mergekit, or the whole model",
        choices=("model", "tensor"),
    )

    formula = (
        "θ = θ0 + Σₜ mₜ τₜ (uₜ (1 + r min(ρₜ, α)) + sₜ / Σ m);  mₜ = [|τₜ| > ε];  uₜ, sₜ = changed by t "
        "only, by others too;  ρₜ = Σ sₜ / Σ uₜ over a tensor"
    )
    card_template = (
        "mergekit's RAM+ (tensor-local): changes beyond {epsilon:g}, the mean where tasks share them, else "
        "times 1 + {r:g} · the ratio of a task's shared to its own, at most {alpha:g}"
    )

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for the numbers of shared and of own changes; return the merge."""

        def kinds(block: Block) -> Tensor:
            changed, how_many = self.changed(block)
            return torch.cat([changed & (how_many > 1), changed & (how_many == 1)]).to(block.base.dtype)

        shared, own = (yield Sums(kinds)).chunk(2)
        ratio = shared / own.clamp(min=self.epsilon)
        factors = 1 + self.r * ratio.clamp(0, self.alpha)

        def merge(block: Block) -> Tensor:
            changed, how_many = self.changed(block)
            rows = changed * block.task_vectors.flatten(1)
            return total(torch.where(how_many == 1, rows * factors.to(rows), rows / how_many.clamp(min=1)))

        return merge
