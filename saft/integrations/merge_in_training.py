"""The merge of the weights that are being trained with other checkpoints, put in their place for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from saft.errors import UserError
from saft.merging.inputs.in_memory import tensors_of, without_adapters
from saft.merging.merge_models import Model, by_task, plan_of
from saft.merging.merged_tensors import fill_in_place, fitting
from saft.merging.notes import warn_of
from saft.merging.plan import Plan
from saft.optim.random_streams import RandomStreams

__all__ = ["MergeWith"]


@dataclass(frozen=True)
class MergeWith:
    """What the weights that are being trained are merged with, and how.

    Args:
        base: that all were fine-tuned from: a folder, which is read tensor by tensor, or a model in memory.
        others: the other models, as {task: model}; they come after the one that is trained.
        method: name of a merge method that gives one model.
        options: further keys of a merge file, see `saft.merge_models`.
        name: of the model that is trained.

    Raises:
        UserError: one of the others has that name, or they are a single model.

    Example:
        >>> base, model, other = (nn.Linear(1, 1, bias=False) for _ in range(3))
        >>> for one, weight in ((base, 0.0), (model, 1.0), (other, 2.0)):
        ...     _ = nn.init.constant_(one.weight, weight)
        >>> with MergeWith(base, {"other": other}, "average").in_place_of(model):
        ...     model.weight.item()
        1.5
        >>> model.weight.item()
        1.0
    """

    base: Model
    others: Mapping[str, Model]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = "current"

    def __post_init__(self) -> None:
        if self.name in by_task(self.others, "others"):
            raise UserError(f"others: '{self.name}' is the model that is trained; rename the other")

    def check(self, model: nn.Module) -> None:
        """Look for all that can be wrong, before anything is computed.

        Args:
            model: that is trained.

        Raises:
            UserError: with every problem that was found.
        """
        plan = self._plan(model)
        warn_of(plan)
        fitting(plan, model)

    @contextmanager
    def in_place_of(self, model: nn.Module, optimizers: Iterable[Any] = ()) -> Iterator[None]:
        """Have the model compute with the merged weights, in evaluation mode and without gradients.

        Its weights, buffers and modes, and the random numbers, are put back bit for bit, also after an
        exception; meanwhile a copy of the weights takes memory. Of a peft model the adapters are off.

        Args:
            model: that is trained.
            optimizers: that train it. Of one whose weights are others in evaluation (schedule-free) those
                are merged.

        Raises:
            UserError: a model is not finite, or does not fit the base.
        """
        tensors = tensors_of(model)
        streams = RandomStreams(tensor.device for tensor in tensors.values())
        averaging = [optimizer for optimizer in optimizers if _is_averaging(optimizer)]
        trained = [x for optimizer in averaging for group in optimizer.param_groups for x in group["params"]]
        kept = {id(x): (x, x.detach().clone()) for x in (*tensors.values(), *trained)}
        modes = [(module, module.training) for module in model.modules()]
        try:
            for optimizer in averaging:
                optimizer.eval()
            plan = self._plan(model)
            fill_in_place(plan, fitting(plan, model))
            model.eval()
            with torch.no_grad(), without_adapters(model):
                yield
        finally:
            for optimizer in averaging:
                optimizer.train()
            with torch.no_grad():  # after `train`, which moves weights, and is not exact
                for tensor, values in kept.values():
                    tensor.copy_(values)
            for module, training in modes:
                module.training = training
            streams.rewind()

    def _plan(self, model: nn.Module) -> Plan:
        return plan_of(self.base, {self.name: model, **by_task(self.others)}, self.method, self.options)


def _is_averaging(optimizer: Any) -> bool:
    """Return whether an optimizer has the weights of training in the model, and others for evaluation."""
    return any(group.get("train_mode") is True for group in optimizer.param_groups)
