"""Where the parameters come from: an optimizer, parameter groups, or a function; read each time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from saft.errors import UserError

__all__ = ["Groups", "ParameterGroups", "clear_gradients"]

Groups = Sequence[Mapping[str, Any]]


class StepListener(Protocol):
    """What is notified of an optimizer's steps."""

    def before_step(self) -> None:
        """Called before the optimizer steps."""

    def advance(self) -> None:
        """Called after the optimizer stepped."""


class ParameterGroups:
    """Parameter groups as they are now, and the optimizer behind them, if there is one.

    Args:
        source: an optimizer (wrappers of Lightning and Accelerate are opened), parameters, parameter groups,
            or a function that returns parameter groups.

    Raises:
        UserError: an optimizer that cannot be made sharpness-aware, or parameters flattened by FSDP1.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> [list(group) for group in ParameterGroups([w]).current]
        [['params']]
    """

    def __init__(self, source: Optimizer | Iterable[Any] | Callable[[], Groups]) -> None:
        while (inner := getattr(source, "optimizer", None)) is not None:
            source = inner
        if isinstance(source, torch.optim.LBFGS):
            raise UserError("LBFGS runs its closure many times a step; it cannot be made sharpness-aware")
        self.optimizer = source if isinstance(source, Optimizer) else None
        self._make: Callable[[], Groups] | None = source if callable(source) else None
        self._groups: Groups = ()
        if self.optimizer is None and self._make is None:
            given = list(source)  # type: ignore[arg-type]
            self._groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        if self._make is None:
            _refuse_flattened(self.parameters)

    @property
    def current(self) -> Groups:
        """The parameter groups, as they are now."""
        if self.optimizer is not None:
            return self.optimizer.param_groups
        return self._groups if self._make is None else self._make()

    @property
    def leading(self) -> Mapping[str, Any]:
        """The group whose learning rate a radius follows: the first that is not frozen by a rate of 0."""
        current = self.current
        return next((group for group in current if not _is_frozen(group)), current[0])

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, of any shape, in the order of the groups, as a checkpoint numbers them."""
        return [parameter for group in self.current for parameter in group["params"]]

    @property
    def trainable(self) -> list[Tensor]:
        """The parameters that ask for a gradient, of any shape, each once.

        Raises:
            UserError: FSDP1 has flattened them.
        """
        parameters = list({id(p): p for p in self.parameters if p.requires_grad}.values())
        _refuse_flattened(parameters)
        return parameters

    @property
    def has_zero_learning_rate(self) -> bool:
        """Whether every learning rate is 0, as when a checkpointing library makes an optimizer's state."""
        return all(group.get("lr", 1) == 0 for group in self.current)

    def refuse_what_ascents_ignore(self, climbs: bool) -> None:
        """Raise if a group has options that an ascent would go against.

        Args:
            climbs: whether the ascent climbs the loss: it would make nothing robust where the step does, too.

        Raises:
            UserError: `maximize=True`; or a `rho` or `adaptive` that is no option of the optimizer, but meant
                for other implementations of SAM.
        """
        if climbs and any(group.get("maximize") for group in self.current):
            raise UserError(
                "maximize=True: the step climbs the loss, and so does the perturbation, which is then not the"
                " worst case: leave it out, and call backward() on the loss times -1"
            )

        known = {} if self.optimizer is None else self.optimizer.defaults
        for name in ("rho", "adaptive"):
            if name not in known and any(name in group for group in self.current):
                raise UserError(
                    f"a parameter group has its own {name}, but one epsilon is made of all groups: give rho"
                    " and the perturbation once, beside the optimizer; where some parameters are not to be"
                    " perturbed, a perturbation of your own, whose `selects` says which"
                )

    def state_of(self, parameter: Tensor) -> Mapping[str, Any]:
        """Return what the optimizer keeps for a parameter; empty before its first step.

        Args:
            parameter: of any shape.
        """
        if self.optimizer is None:
            return {}
        state: Mapping[str, Any] = self.optimizer.state.get(parameter, {})
        return state

    def register_step_hooks(self, ascent: StepListener) -> None:
        """Let an ascent know of the optimizer's steps, for as long as it lives."""
        if self.optimizer is None:
            return
        owner = weakref.ref(ascent)

        def before(*_: Any) -> None:
            if (alive := owner()) is not None:
                alive.before_step()

        def after(*_: Any) -> None:
            if (alive := owner()) is not None:
                alive.advance()

        self.optimizer.register_step_pre_hook(before)
        self.optimizer.register_step_post_hook(after)


def _is_frozen(group: Mapping[str, Any]) -> bool:
    peak = group.get("max_lr", group.get("initial_lr", group.get("lr")))
    return isinstance(peak, Real) and peak == 0  # a tensor is not looked at: that waits for its device


def clear_gradients(parameters: Iterable[Tensor], instead: Mapping[Tensor, Tensor]) -> None:
    """Take the gradients from parameters.

    Args:
        parameters: of any shape.
        instead: parameter -> the gradient that it has afterwards, of its shape.
    """
    for parameter in parameters:
        parameter.grad = instead.get(parameter)


def _refuse_flattened(parameters: Iterable[Tensor]) -> None:
    # FSDP1's mark: these are pieces of flat shards, with nothing that says of which.
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in parameters):
        raise UserError(
            "FullyShardedDataParallel (FSDP1) flattens parameters, and norms over all shards cannot be taken:"
            " use torch.distributed.fsdp.fully_shard (FSDP2), or DistributedDataParallel"
        )
