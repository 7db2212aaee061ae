"""The optimizer front end: any torch optimizer, made sharpness-aware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from saft.errors import UserError
from saft.optim.ascent import Ascent
from saft.optim.grad_scaler import step_scaled
from saft.optim.make_slots import LowPrecision
from saft.optim.perturbations.base import Perturbation, make_perturbation

__all__ = ["SAM"]


class SAM(Optimizer):
    r"""Sharpness-aware minimization around any torch optimizer.

    $w \leftarrow \text{base}(w, \nabla L(w + \epsilon))$, with $\epsilon = \rho\, g / \|g\|$ for the plain
    form. Parameter groups and state are the base optimizer's own, shared by reference: schedulers, hooks and
    checkpoints see one optimizer. Of the four ways to use it the first two are preferred; all leave the
    weights exactly where the base optimizer puts them.

    Args:
        base: the optimizer that takes the step.
        perturbation: a name of `saft.optim.PERTURBATIONS`, or an instance, for example
            `ASAM(rho=0.5, eta=0.01, scope="all")`.
        rho: radius of the ascent step, at least 0; by default the perturbation's own.
        model: the models that are trained; needed by perturbations that go by names, and for batch norm in
            compiled models (elsewhere batch norms are found by themselves).
        per_micro_batch, fixed_storage, low_precision: see `saft.optim.Ascent`.
        **options: further options of a perturbation given by name, for example `every=10`.

    Raises:
        UserError: an unknown perturbation, option or value, or an optimizer that cannot be the base.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = nn.Linear(4, 1), torch.randn(8, 4)
        >>> optimizer = SAM(torch.optim.AdamW(model.parameters(), lr=1e-2), rho=0.05)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(x).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(closure).item() for _ in range(20)]
        >>> losses[-1] < losses[0]
        True

        In a loop without closures:

        >>> with optimizer.first_pass():                # optional: the replay gets the same dropout masks
        ...     model(x).square().mean().backward()
        >>> with optimizer.perturbed():                 # ascends and clears; bit-exact on exit
        ...     model(x).square().mean().backward()
        >>> optimizer.step()

        Coming from davda54/sam:

        >>> model(x).square().mean().backward()
        >>> optimizer.first_step(zero_grad=True)
        >>> model(x).square().mean().backward()
        >>> optimizer.second_step(zero_grad=True)

    Source: Foret et al., ICLR 2021, arXiv 2010.01412. Differs from other implementations: see `Ascent`.
    """

    # Told of the scale, instead of having gradients unscaled behind its back: see `_scaled_step`.
    _step_supports_amp_scaling = True
    _open: ExitStack | None = None
    base: Optimizer

    def __init__(
        self,
        base: Optimizer,
        perturbation: str | Perturbation = "sam",
        *,
        rho: float | None = None,
        model: nn.Module | Iterable[nn.Module] = (),
        per_micro_batch: bool = False,
        fixed_storage: bool = False,
        low_precision: LowPrecision = "refuse",
        **options: Any,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise UserError(
                f"SAM wraps an optimizer, not a {type(base).__name__}: write"
                " SAM(torch.optim.AdamW(model.parameters(), lr=1e-5), rho=0.05)"
            )
        if isinstance(base, SAM):
            raise UserError(
                "SAM wraps the base optimizer, not another SAM, which would ascend twice: give it"
                f" {type(base.base).__name__} itself"
            )
        self.base = base
        self.ascent = Ascent(
            base,
            make_perturbation(perturbation, rho, **options),
            modules=model,
            per_micro_batch=per_micro_batch,
            fixed_storage=fixed_storage,
            low_precision=low_precision,
        )
        # Not Optimizer.__init__, which would make parameter groups of its own.
        self.__setstate__({})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The base optimizer's state."""
        return self.base.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    @property
    def replays(self) -> bool:
        """Whether this step needs a second pass; see `Ascent.replays`."""
        return self.ascent.replays

    def first_pass(self) -> AbstractContextManager[None]:
        """Run forward and backward at w inside; see `Ascent.first_pass`."""
        return self.ascent.first_pass()

    def perturbed(
        self, scaler: GradScaler | None = None, reduce: Callable[[Tensor], object] | None = None
    ) -> AbstractContextManager[None]:
        """Ascend, and run the replay inside; see `Ascent.perturbed`."""
        return self.ascent.perturbed(scaler, optimizer=self, reduce=reduce)

    def replay_pass(self) -> AbstractContextManager[None]:
        """Replay one of several micro-batches inside; see `Ascent.replay_pass`."""
        return self.ascent.replay_pass()

    def skip_replay(self) -> None:
        """Say that this step has no replay; see `Ascent.skip_replay`."""
        self.ascent.skip_replay()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, scaler: GradScaler | None = None) -> Any:
        """Take a whole step with a closure; without one, the base optimizer's along the replayed gradient.

        Args:
            closure: torch's contract: zeroes the gradients, runs forward and backward, returns the loss. It
                is called once or twice, as `replays` says. After `perturbed` or `skip_replay` the gradient is
                ready, and a closure is called once and must compute no other (Lightning hands in such a one).
            scaler: the gradient scaler, if the closure scales its loss; call `scaler.update()` afterwards.

        Returns:
            The loss of the closure's first call, at w; None without a closure.

        Raises:
            UserError: no closure, and no replay in this step; or a closure that does not zero the gradients.
        """
        if closure is None:
            return self._step_along_gradient()
        if "found_inf" in self.__dict__:
            raise UserError(
                "scaler.step(optimizer, closure) cannot unscale both passes: optimizer.step(closure,"
                " scaler=scaler)"
            )
        closure = torch.enable_grad()(closure)
        if self.ascent.is_ready:
            loss = self._call_without_backward(closure)
            self._step_along_gradient()
            return loss
        with self._first_of_closure(), self.first_pass():
            loss = closure()
        if self.replays:
            with self.perturbed(scaler):
                closure()
        else:
            self.skip_replay()
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)
        self.ascent.is_ready = False  # a scaler may have skipped the step
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> None:
        """Ascend along the gradients that are there: the first half of davda54/sam's recipe.

        The gradients are always cleared, whatever `zero_grad` says: their memory holds the perturbed weights.
        """
        if self._open is not None:
            raise UserError(
                "first_step() was called twice: call second_step() between, or restore() to give up a step"
            )
        stack = ExitStack()
        stack.enter_context(self.perturbed())
        self._open = stack

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back and take the base optimizer's step: the second half of davda54's recipe."""
        if self._open is None:
            raise UserError("second_step() needs a first_step() before it")
        stack, self._open = self._open, None
        stack.close()
        self.step()
        if zero_grad:
            self.zero_grad()

    def restore(self) -> None:
        """Put the weights back after a `first_step` whose second half will not come; otherwise do nothing."""
        stack, self._open = self._open, None
        if stack is not None:
            with suppress(_GivenUp):
                stack.__exit__(_GivenUp, _GivenUp(), None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and forget the passes that made them."""
        self.base.zero_grad(set_to_none=set_to_none)
        self.ascent.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, which it can load, with a small section `saft` beside it."""
        if self._open is not None:
            raise UserError(
                "the weights are perturbed, between first_step() and second_step(): save after the latter"
            )
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = {**self.base.state_dict(), "saft": self.ascent.state_dict()}
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of `state_dict`, or of the base optimizer alone."""
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        section = state_dict.pop("saft", None)
        self.base.load_state_dict(state_dict)
        if section is not None:
            self.ascent.load_state_dict(section)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _step_along_gradient(self) -> Any:
        if (
            self.replays
            and not self.ascent.is_ready
            and not self.ascent.parameter_groups.has_zero_learning_rate
        ):
            raise UserError(
                "step() without a closure, and without a replay of this batch, would be a plain step of the"
                " base optimizer: call step(closure), or put the second pass inside `with"
                " optimizer.perturbed():`. Under Lightning use the callback of saft.integrations.lightning,"
                " under the Hugging Face Trainer the mixin of saft.integrations.transformers, under"
                " Accelerate SharpnessAware of saft.integrations.accelerate"
            )
        if "found_inf" in self.__dict__:
            result = step_scaled(self.base, self.__dict__["grad_scale"], self.__dict__["found_inf"])
        else:
            result = self.base.step()
        self.ascent.is_ready = False  # a scaler may have skipped the step
        return result

    def _call_without_backward(self, closure: Callable[[], Any]) -> Any:
        backwards = self.ascent.pairs.backwards
        backwards.watch([p for p in self.ascent.parameter_groups.trainable if p.grad is not None])
        backwards.restart()
        loss = closure()
        if backwards.passes:
            raise UserError(
                "step(closure) after perturbed() or skip_replay(): the gradient was ready, and the closure"
                " computed another; call step() without a closure"
            )
        return loss

    @contextmanager
    def _first_of_closure(self) -> Iterator[None]:
        """Raise if the closure inside adds to older gradients, which its replay could not repeat."""
        backwards = self.ascent.pairs.backwards
        backwards.watch([p for p in self.ascent.parameter_groups.trainable if p.grad is not None])
        backwards.expect_clearing()
        yield
        if backwards.was_not_cleared() and self.replays:
            raise UserError(
                "the closure did not zero the gradients of an earlier backward, so its replay could not"
                " repeat the first pass: call optimizer.zero_grad() in it; to accumulate micro-batches loop"
                " over them inside the closure, or use first_pass() and replay_pass()"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "ascent": self.ascent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._warned_capturable_if_run_uncaptured = True
        super().__setstate__(state)

    def __repr__(self) -> str:
        return f"SAM({self.ascent.perturbation}, {self.base})"


class _GivenUp(Exception):
    """Thrown into a replay that will not be finished."""
