"""What every average along a training is: how much each step counts; and the running average itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saft import config
from saft.registry import Registry

__all__ = ["AVERAGINGS", "Averaging", "RunningAverage", "averaging"]


@dataclass(frozen=True)
class Averaging(ABC):
    r"""How much the weights after each step count.

    $a_t = a_{t-1} + c_t (w_t - a_{t-1})$, t counting from 1; $c_1 = 1$.

    A subclass is one file in `saft/trajectory/`, registered by name; its fields are its keys in a config.

    Example:
        >>> averaging("ema", decay=0.9).share(step=1, steps=10)
        1.0
    """

    @abstractmethod
    def share(self, step: int, steps: int) -> float:
        """Return c, in [0, 1], of the weights after `step` of `steps` optimizer steps.

        Args:
            step: number of steps taken, from 1.
            steps: of the whole training.
        """


AVERAGINGS: Registry[type[Averaging]] = Registry(Averaging, "averaging", "saft.trajectory")


def averaging(name: str, where: str = "averaging", **options: Any) -> Averaging:
    """Return the average registered under a name, with some of its options.

    Args:
        name: one of `AVERAGINGS.names()`, or `module:Name`.
        where: begins every message: the dotted place in the config.
        **options: of the average, for example `decay=0.9`.

    Raises:
        UserError: unknown name or option, or a value out of range.

    Example:
        >>> [averaging("tail", share_of_steps=0.5).share(step, steps=6) for step in (3, 4, 5)]
        [1.0, 1.0, 0.5]
    """
    return config.make_registered(AVERAGINGS, name, options, where)


class RunningAverage:
    """The average of a model's weights so far, of its own size; what is not floating-point is the last.

    Args:
        kind: how much each step counts.
        steps: optimizer steps of the training.

    Example:
        >>> running, model = RunningAverage(averaging("tail", share_of_steps=1), steps=2), nn.Linear(1, 1)
        >>> for step in (1, 2):
        ...     _ = nn.init.constant_(model.weight, float(step))
        ...     running.update(model, step)
        >>> running.put_into(model); model.weight.item()
        1.5
    """

    def __init__(self, kind: Averaging, steps: int) -> None:
        self.kind = kind
        self.steps = steps
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step, numbered from 1."""
        share = self.kind.share(step, self.steps)
        for name, tensor in model.state_dict().items():
            if name not in self.tensors or share == 1 or not tensor.is_floating_point():
                self.tensors[name] = tensor.clone()
            else:
                self.tensors[name] = self.tensors[name].to(tensor.device).lerp_(tensor, share)

    def put_into(self, model: nn.Module) -> None:
        """Put the average into the model; before the first update leave it as it is."""
        if self.tensors:
            model.load_state_dict(self.tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, for a checkpoint."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the average of an interrupted training."""
        self.tensors = {name: tensor.clone() for name, tensor in state_dict.items()}
