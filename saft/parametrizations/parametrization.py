"""What every parametrization is: which tensors of a trunk are trained, and the folder that they become."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from saft import config
from saft.files.checkpoint import WEIGHTS, model_config, state_dtype, write_tensors
from saft.files.side_files import copy_side_files
from saft.registry import Registry
from saft.stored_names import stored_names

__all__ = [
    "PARAMETRIZATIONS",
    "Climbed",
    "Losses",
    "Parametrization",
    "parametrization",
    "train_only",
    "trained_shapes",
    "write_side_files",
]


Losses = Callable[[int], Iterator[Tensor]]
"""Yields the losses of the first so many training examples, one by one, of the trunk as it is."""


class Climbed(NamedTuple):
    """What SAM perturbs where that is not what is trained.

    Args:
        weights: perturbed, never trained; they have gradients in the first pass only.
        instead_of: trained, not perturbed; they have gradients in the replay only.
    """

    weights: list[nn.Parameter]
    instead_of: list[nn.Parameter]

    def in_first_pass(self) -> None:
        """Ask for the gradients that epsilon is made of."""
        self._ask(of_weights=True, of_others=False)

    def before_replay(self) -> None:
        """Ask for all, so that an ascent knows them all."""
        self._ask(of_weights=True, of_others=True)

    def in_replay(self) -> None:
        """Ask for the gradients that are descended along."""
        self._ask(of_weights=False, of_others=True)

    def _ask(self, of_weights: bool, of_others: bool) -> None:
        for parameters, asks in ((self.weights, of_weights), (self.instead_of, of_others)):
            for parameter in parameters:
                parameter.requires_grad_(asks)


@dataclass(frozen=True)
class Parametrization(ABC):
    """What of a trunk is trained. A head is never a part of it: it is trained if its task says so.

    A subclass is one file in `saft/parametrizations/`, registered by name; its fields are its keys in a
    config.

    Example:
        >>> parametrization("full").is_adapter
        False
    """

    is_adapter: ClassVar[bool] = False
    """Whether what is saved is an adapter, and not weights."""

    is_linear: ClassVar[bool] = False
    """Whether what is trained is the model's tangent at the base, which is what its weights stand for."""

    has_vectors: ClassVar[bool] = False
    """Whether vectors, such as biases, are trained of every trunk that has some."""

    has_norms: ClassVar[bool] = True
    """Whether norms may be trained."""

    @property
    def climbs_weights(self) -> bool:
        """Whether SAM perturbs weights that are not trained themselves; see `climbed`."""
        return False

    @abstractmethod
    def wrap(self, trunk: nn.Module, losses: Losses) -> Callable[[], None] | None:
        """Change a trunk at its base so that what is declared is trained, and nothing else.

        Its outputs stay those of the base until the first step. What is drawn comes from torch's generator.

        Args:
            trunk: on the device where it will be trained; changed in place.
            losses: of its training examples.

        Returns:
            What is to be done after each optimizer step; None where there is nothing to do.

        Raises:
            UserError: the trunk has nothing of what is declared.
        """

    def climbed(self, trunk: nn.Module) -> Climbed | None:
        """Return what SAM perturbs of a wrapped trunk where that is not what is trained; else None."""
        return None

    def passes(self, batch_size: int) -> float:
        """Return what `wrap` costs, in forward and backward passes over a batch of this many examples."""
        return 0.0

    def saved_weights(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return about how many weights `save` writes, for who must know before a training.

        Args:
            shapes: name of a tensor of the base model -> its shape.
        """
        return sum(math.prod(shape) for shape in shapes.values())

    def save(self, trunk: nn.Module, base: Path, folder: Path, location: str) -> None:
        """Write what came out of a training, and beside it what the base model has, which readers need.

        Args:
            trunk: that was wrapped.
            base: the folder of the base model.
            folder: to write to; exists.
            location: of the base model, as the user wrote it.
        """
        write_side_files(trunk, base, folder)
        names = stored_names(trunk)
        write_tensors(folder / WEIGHTS, {names[name]: tensor for name, tensor in trunk.state_dict().items()})
        state_dtype(folder)


PARAMETRIZATIONS: Registry[type[Parametrization]] = Registry(
    Parametrization, "parametrization", "saft.parametrizations"
)


def write_side_files(trunk: nn.Module, base: Path, folder: Path) -> None:
    """Write what the base model has beside its weights: readers load a trunk's weights as they are here.

    A trunk that is a part of the base, as the tower of CLIP that sees, gets a config of its own.

    Args:
        trunk: that was trained.
        base: the folder of the base model.
        folder: to write to; exists.
    """
    copy_side_files(base, folder)
    settings: Any = getattr(trunk, "config", None)
    whole = model_config(base)
    if "vision_config" in whole and settings.model_type != whole.get("model_type"):
        settings.architectures = [type(trunk).__name__]
        settings.save_pretrained(folder)


def parametrization(name: str, where: str = "parametrization", **options: object) -> Parametrization:
    """Return the parametrization registered under a name, with some of its options.

    Args:
        name: one of `PARAMETRIZATIONS.names()`, or `module:Name`.
        where: begins every message: the dotted place in the config.
        **options: of the parametrization, for example `tensors=["*.attention.*"]`.

    Raises:
        UserError: unknown name or option, or a value out of range.

    Example:
        >>> parametrization("only", tensors=["encoder.*"])
        Only(tensors=['encoder.*'])
        >>> parametrization("fll")
        Traceback (most recent call last):
        saft.errors.UserError: parametrization: name: unknown parametrization 'fll'; did you mean 'full'?
    """
    return config.make_registered(PARAMETRIZATIONS, name, options, where)


def train_only(trunk: nn.Module, names: Collection[str]) -> None:
    """Let the parameters of these names be trained, and no others."""
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(name in names)


def trained_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that are trained, by name.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> train_only(layer, {"bias"})
        >>> trained_shapes(layer)
        {'bias': (1,)}
    """
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
