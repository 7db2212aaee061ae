"""What every penalty is: options of an arm, bound to a trunk at its base and to inputs without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from saft import config
from saft.config import Count, NonNegative
from saft.errors import UserError
from saft.optim.perturbations.base import Perturbation
from saft.penalties.unlabelled import Unlabelled
from saft.registry import Registry
from saft.tasks.task import BoundTask

__all__ = ["PENALTIES", "BoundPenalty", "Penalty", "Setting", "penalty", "without_dropout"]


@dataclass(frozen=True)
class Setting:
    """What a penalty may look at besides the weights: training inputs without labels, and nothing else.

    Args:
        own: the training inputs of the task that is trained.
        reference: task -> inputs whose outputs are to stay: those of the experiment's other tasks, or of the
            data under `reference:`.
        seed: of every draw; a draw depends only on it and on the number of the step.
        steps: optimizer steps of the training.
        cache: folder for what is costly at the base and can be shared by arms; None keeps nothing.
    """

    own: Unlabelled
    reference: Mapping[str, Unlabelled] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    cache: Path | None = None


class BoundPenalty(Protocol):
    """A penalty on one trunk, whose base it remembers."""

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the penalty at the weights as they are, 0-dim, at least 0, with its gradient.

        Args:
            trunk: the one that was bound, whatever its weights are now.
            step: number of optimizer steps taken so far; must be `due`.
        """


@dataclass(frozen=True)
class Penalty(ABC):
    r"""What is added to the loss of a step, and when.

    $L \leftarrow L + k\,\lambda\,P(w, w_0)$ on every k-th step: on average $\lambda P$ whatever k is.

    A subclass is one file in `saft/penalties/`, registered by name; its fields are its keys in a config.

    Args:
        strength: lambda, at least 0; 0 turns the penalty off.
        every: k, at least 1; the steps between pay nothing.
        ascend: what the ascent of SAM climbs on a step with the penalty: the task's loss, the penalty, or
            both. Both are in the descent gradient, whichever it is. GSAM and LookSAM, which combine the two
            gradients of a step, take only both.

    Example:
        >>> penalty("l2_base", strength=0.1).due(step=3)
        True
    """

    strength: NonNegative = 1.0
    every: Count = 1
    ascend: Literal["loss", "penalty", "both"] = "loss"

    of_weights: ClassVar[bool] = False
    """Whether it looks at the trunk's own weights, and not at outputs."""

    @property
    def reads(self) -> Literal["others", "reference"] | None:
        """Whose inputs it needs besides the task's own; None where it needs none."""
        return None

    def due(self, step: int) -> bool:
        """Return whether optimizer step number `step` (from 0) has the penalty."""
        return self.strength > 0 and step % self.every == 0

    def due_steps(self, steps: int) -> list[int]:
        """Return the numbers of those of the first `steps` optimizer steps that have the penalty."""
        return [step for step in range(steps) if self.due(step)]

    def cost(self, batch_size: int) -> float:
        """Return what one evaluation costs, in passes over a batch of this many examples."""
        return 0.0

    def base_cost(self, steps: int, batch_size: int) -> float:
        """Return what it costs to bind it, in passes over a batch; what a cache holds is not left out."""
        return 0.0

    def passes(self, steps: int, batch_size: int) -> float:
        """Return what it adds to a training without ascent, in forward and backward passes over a batch.

        Args:
            steps: number of optimizer steps.
            batch_size: examples of a training batch.
        """
        return len(self.due_steps(steps)) * self.cost(batch_size) + self.base_cost(steps, batch_size)

    def check_ascent(self, ascent: Perturbation) -> None:
        """Check that it goes with the ascent of an arm.

        Raises:
            UserError: both gradients of a step are combined, and only one would have the penalty in it; or
                rho is sought by a loss that begins at 0.
        """
        name = type(ascent).__name__
        if ascent.uses_first_gradient and self.ascend != "both":
            raise UserError(
                f"ascend: is {self.ascend}, but {name} combines both gradients of a step, which must be of "
                "one sum; write both"
            )
        if ascent.rise is not None and self.ascend == "penalty":
            raise UserError(
                "ascend: is penalty, which begins at 0, so rho: auto finds no share of it; give rho a number,"
                " or write both"
            )

    def check_tasks(self, tasks: Mapping[str, BoundTask], where: str) -> None:  # noqa: B027 - most take all
        """Check that it goes with tasks on their model, before anything is trained.

        Args:
            tasks: whose inputs it may read.
            where: begins every message: the dotted place of the penalty in its config.

        Raises:
            UserError: it does not.
        """

    @abstractmethod
    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk whose weights are those of the base now.

        Args:
            trunk: on the device where it will be trained.
            setting: inputs, seed and steps.

        Raises:
            UserError: the setting lacks the inputs that it needs.
        """

    def _reference(self, setting: Setting) -> dict[str, Unlabelled]:
        """Return whose outputs are to stay, or raise."""
        if setting.reference:
            return dict(setting.reference)
        raise UserError(
            f"penalty: inputs: {self.reads}: there are none. `saft run` needs two tasks or more for the"
            " others' inputs; otherwise list tasks under `reference:`, as under `tasks:`"
        )


PENALTIES: Registry[type[Penalty]] = Registry(Penalty, "penalty", "saft.penalties")


def penalty(name: str, where: str = "penalty", **options: Any) -> Penalty:
    """Return the penalty registered under a name, with some of its options.

    Args:
        name: one of `PENALTIES.names()`, or `module:Name`.
        where: begins every message: the dotted place of the penalty in its config.
        **options: of the penalty, for example `strength=2`.

    Raises:
        UserError: unknown name or option, or a value out of range.

    Example:
        >>> penalty("drift", strength=2, every=8).due_steps(20)
        [0, 8, 16]
        >>> penalty("drift", stength=2)
        Traceback (most recent call last):
        saft.errors.UserError: penalty: stength: unknown key; did you mean 'strength'?
    """
    return config.make_registered(PENALTIES, name, options, where)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside: at the base's weights a penalty is then exactly 0."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
