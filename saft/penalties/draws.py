"""Which inputs each step of a penalty reads, and from where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from saft.config import Count
from saft.errors import UserError
from saft.penalties.made_up import shuffled, with_random_tokens
from saft.penalties.penalty import Penalty, Setting
from saft.penalties.unlabelled import Inputs, Unlabelled, drawn
from saft.tasks.image_classification import BoundImageClassification
from saft.tasks.task import BoundTask

__all__ = ["Draws", "InputsOf", "PenaltyOnInputs"]

InputsOf = Literal["others", "reference", "own_shuffled", "random_tokens"]
"""The training inputs of the experiment's other tasks; those under `reference:`; the task's own with their
tokens or patches in random order; as many uniformly drawn tokens."""


@dataclass(frozen=True)
class Draws:
    """One task, and some of its inputs, for every step; they depend on the seed and the step alone.

    Args:
        sources: task -> what there is to draw from.
        kind: whose inputs these are, and what is made of them.
        examples: inputs of one step, at least 1.
        distinct: the first so many of each task are drawn from; None takes all.
        seed: of every draw.

    Raises:
        UserError: a task has no training examples.
    """

    sources: Mapping[str, Unlabelled]
    kind: InputsOf
    examples: int
    distinct: int | None
    seed: int

    def __post_init__(self) -> None:
        empty = [name for name, source in self.sources.items() if not len(source)]
        if empty:
            raise UserError(f"penalty: inputs: task '{empty[0]}' has no training examples")

    def task(self, step: int) -> str:
        """Return the task whose inputs a step reads."""
        return self._drawn(step)[0]

    def of_step(self, trunk: nn.Module, step: int) -> tuple[Unlabelled, Inputs]:
        """Return what the inputs of a step come from, and the inputs on the trunk's device.

        Raises:
            UserError: random tokens are asked for, and the task or the trunk is none of texts.
        """
        name, indices = self._drawn(step)
        inputs = self.sources[name].inputs(indices, next(trunk.parameters()).device)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if self.kind == "own_shuffled":
            inputs = shuffled(inputs, trunk, generator)
        elif self.kind == "random_tokens":
            inputs = with_random_tokens(inputs, trunk, generator)
        return self.sources[name], inputs

    def _drawn(self, step: int) -> tuple[str, list[int]]:
        sizes = {name: min(self.distinct or len(some), len(some)) for name, some in self.sources.items()}
        return drawn(sizes, self.examples, self.seed, step)


@dataclass(frozen=True)
class PenaltyOnInputs(Penalty):
    """A penalty that draws inputs in every step that has it.

    Args:
        inputs: whose.
        examples: inputs of one step.
        distinct: inputs of each task that there are to draw from; None takes its whole training split.
    """

    inputs: InputsOf = "others"
    examples: Count = 2
    distinct: Count | None = None

    @property
    def reads(self) -> Literal["others", "reference"] | None:
        """Whose inputs it needs besides the task's own."""
        return self.inputs if self.inputs in ("others", "reference") else None

    def check_tasks(self, tasks: Mapping[str, BoundTask], where: str) -> None:
        """Refuse what nothing can be made up from; see `Penalty.check_tasks`.

        Raises:
            UserError: a task is of images, and tokens are to be drawn; or it has several texts in a row.
        """
        for name, task in tasks.items() if self.reads is None else ():
            if getattr(getattr(task, "task", None), "packing", False):
                raise UserError(
                    f"{where}: inputs: {self.inputs}: is made of one text a row, but task '{name}' has "
                    "packing: true; set it to false, or take others or reference"
                )
        for name, task in tasks.items() if self.inputs == "random_tokens" else ():
            if isinstance(task, BoundImageClassification):
                raise UserError(
                    f"{where}: inputs: random_tokens: task '{name}' is of images, which have none; take"
                    " own_shuffled, others or reference"
                )

    def draws(self, setting: Setting) -> Draws:
        """Return what each step of a training draws.

        Raises:
            UserError: there are no inputs of other tasks, or a task has no training examples.
        """
        sources = self._reference(setting) if self.reads else {"own": setting.own}
        return Draws(sources, self.inputs, self.examples, self.distinct, setting.seed)
