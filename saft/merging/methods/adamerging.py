"""AdaMerging: a coefficient for each task and tensor, found on unlabelled examples."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from saft.merging.method import Elementwise, Statistic, Steps, parameter, total
from saft.merging.methods import METHODS
from saft.merging.methods.ties import Ties
from saft.merging.stream.block import Block

__all__ = ["AdaMerging", "Added"]


@METHODS.register("adamerging")
@dataclass(frozen=True, kw_only=True)
class AdaMerging(Elementwise):
    """Adds the task vectors with coefficients that minimize the entropy of the merged model's predictions.

    There is a coefficient for each task and tensor (`layer_wise`), or one for each task (`task_wise`). They
    begin at `initial`, and Adam lowers the entropy of the merged model's predictions, its mean over a batch
    of each task's examples, summed over the tasks. Labels are not read. AdaMerging++ (`ties`) does it with
    what TIES keeps of each task vector: the largest entries, where they have the elected sign.

    A tensor through which no example goes keeps the initial coefficient, task by task. Coefficients may
    become negative.

    Example:
        >>> import torch
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(AdaMerging(), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))           # no data
        tensor([1.2000, 0.0000])
    """

    coefficients: str = parameter(
        "layer_wise",
        "one for each task and tensor, or one for each task",
        choices=("layer_wise", "task_wise"),
    )
    vectors: str = parameter(
        "whole",
        "what is added: the task vectors, or what TIES keeps of them (AdaMerging++)",
        choices=("whole", "ties"),
    )
    density: float = parameter(
        0.2, "fraction of the entries that TIES keeps; read only with `vectors: ties`", above=0, at_most=1
    )
    initial: float = parameter(0.3, "value that the coefficients begin with", at_least=0)
    learning_rate: float = parameter(1e-3, "of Adam", above=0)
    iterations: int = parameter(1000, "steps of Adam, each with a batch of every task", at_least=0)

    formula = "θ = θ0 + Σₜ λₜₗ τₜₗ for each tensor l;  λ = argmin Σₜ mean over x of H(p(y | x, θ))"
    card_template = (
        "the sum of the task vectors ({vectors}; density {density:g} with ties) with {coefficients} "
        "coefficients, found by {iterations} steps of Adam (rate {learning_rate:g}, from {initial:g}) that "
        "lower the entropy of the predictions"
    )
    source = "Yang et al. 2024, AdaMerging: adaptive model merging for multi-task learning (arXiv 2310.02575)"
    deviations = (
        "in the data: the published figures come from the test examples themselves, which saft never reads; "
        "1e-8 is not added to the probabilities under the logarithm"
    )
    statistics_over = "model"
    scaling = 1.0
    scaling_grid = (1.0,)
    needs = "base, models, examples of each task"
    calibration = "coefficients"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for what the task vectors need; return the weighted sum."""
        added = yield from self.added(tasks, count)

        def merge(block: Block) -> Tensor:
            coefficients = block.statistics.get("coefficients")
            rows = added(block)
            return total(rows * (self.initial if coefficients is None else coefficients.view(tasks, 1)))

        return merge

    def added(self, tasks: int, count: int) -> Generator[Statistic, Tensor, Callable[[Block], Tensor]]:
        """Ask for what the task vectors need; return a function of a block to what is weighted, [n_tasks, n].

        Args:
            tasks: number of task vectors.
            count: number of coordinates that the statistics are taken over.
        """
        if self.vectors == "whole":
            return lambda block: block.task_vectors
        ties = Ties(density=self.density)
        agreed = yield from ties.agreed(lambda block: block.task_vectors, tasks, count)
        return lambda block: agreed(block)[0]


@dataclass(frozen=True, kw_only=True)
class Added(AdaMerging):
    """Gives what AdaMerging weighs, for each task: [n_tasks, n]; for the search for the coefficients."""

    calibration = ""

    def steps(self, tasks: int, count: int) -> Steps:
        """Do what AdaMerging does, without the sum."""
        return (yield from self.added(tasks, count))
