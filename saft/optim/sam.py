"""The optimizer front end: any torch optimizer, made sharpness-aware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from saft.errors import UserError
from saft.optim.ascent import Ascent
from saft.optim.ascent_options import ADVICE, AscentOptions
from saft.optim.auto_radius import find_radius
from saft.optim.closure import call_without_backward, require_fresh_gradients, written_by_lightning
from saft.optim.give_up import give_up
from saft.optim.grad_scaler import refuse_unscaled, require_unscaled, step_scaled
from saft.optim.not_compiled import not_traced
from saft.optim.perturbations.base import Perturbation, make_perturbation

__all__ = ["SAM"]

_ADVICE = ADVICE._replace(
    replay=(
        "call step(closure), or put the second pass inside `with optimizer.perturbed():`. Under Lightning use"
        " the callback of saft.integrations.lightning, under the Hugging Face Trainer the mixin of"
        " saft.integrations.transformers, under Accelerate SharpnessAware of saft.integrations.accelerate"
    ),
    first_pass="put it inside `with optimizer.first_pass():`, or call step(closure)",
)


class SAM(Optimizer):
    r"""Sharpness-aware minimization around any torch optimizer.

    $w \leftarrow \text{base}(w, \nabla L(w + \epsilon))$, with $\epsilon = \rho\, g / \|g\|$ for the plain
    form. Parameter groups and state are the base optimizer's own, shared by reference: schedulers, hooks and
    checkpoints see one optimizer. Of the four ways to use it the first two are preferred; all leave the
    weights exactly where the base optimizer puts them. `step(closure)` is the algorithm:

    1. g = gradient of the closure's loss at w.
    2. epsilon from g and w; the weights become w + epsilon.
    3. g = gradient of the closure's loss at w + epsilon, with the same random numbers.
    4. The weights become w again, bit for bit.
    5. The base optimizer steps along g.

    Args:
        base: the optimizer that takes the step.
        perturbation: a name of `saft.optim.PERTURBATIONS`, or an instance, for example
            `ASAM(rho=0.5, eta=0.01, scope="all")`.
        rho: radius of the ascent step, at least 0, by default the perturbation's own; or "auto", with `rise`:
            see `saft.optim.auto_radius.find_radius`, which the first `step(closure)` with an ascent calls.
        model: the models that are trained; needed by perturbations that go by names, and for batch norm in
            compiled models (elsewhere batch norms are found by themselves).
        **options: those of `saft.optim.AscentOptions` (`per_micro_batch`, `fixed_storage`, `low_precision`),
            and further ones of a perturbation given by name, for example `every=10`.

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

    # Told of the scale, instead of having gradients unscaled behind its back: see `step_scaled`.
    _step_supports_amp_scaling = True
    _open: ExitStack | None = None
    base: Optimizer

    def __init__(
        self,
        base: Optimizer,
        perturbation: str | Perturbation = "sam",
        *,
        rho: float | Literal["auto"] | None = None,
        model: nn.Module | Iterable[nn.Module] = (),
        **options: Any,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise UserError(
                f"SAM wraps a torch.optim.Optimizer, not a {type(base).__name__}: write"
                " SAM(torch.optim.AdamW(model.parameters(), lr=1e-5), rho=0.05)"
            )
        if isinstance(base, SAM):
            raise UserError(
                "SAM wraps the base optimizer, not another SAM, which would ascend twice: give it"
                f" {type(base.base).__name__} itself"
            )
        own, others = AscentOptions.split(options)
        self.base = base
        self.ascent = Ascent(
            base,
            make_perturbation(perturbation, rho, **others),
            modules=model,
            options=own,
            advice=_ADVICE,
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
        """The base optimizer's state: parameter, of any shape -> name -> value."""
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
        """Ascend, and run the replay inside; see `Ascent.perturbed`.

        Args:
            scaler, reduce: see `Ascent.perturbed`; `reduce` changes a 0-dim tensor in place.

        Raises:
            UserError: as `Ascent.perturbed`.
        """
        return self.ascent.perturbed(scaler, optimizer=self, reduce=reduce)

    def replay_pass(self) -> AbstractContextManager[None]:
        """Replay one of several micro-batches inside; see `Ascent.replay_pass`."""
        return self.ascent.replay_pass()

    @not_traced
    def skip_replay(self) -> None:
        """Declare that this step has no replay; see `Ascent.skip_replay`."""
        self.ascent.skip_replay()

    @not_traced
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
        by_lightning = written_by_lightning(closure)
        closure = torch.enable_grad()(closure)
        if self.ascent.is_ready:
            loss = call_without_backward(self.ascent, closure)
            self._step_along_gradient()
            return loss
        overflows = (
            self.ascent.needs_radius and find_radius(self.ascent, closure, closure, scaler=scaler) is None
        )
        with require_fresh_gradients(self.ascent, by_lightning), self.first_pass():
            loss = closure()
        refuse_unscaled(scaler, (self.base, self))
        if self.replays and not overflows:
            with self.perturbed(scaler):
                closure()
        else:
            self.skip_replay()
        self.base.step() if scaler is None else scaler.step(self.base)
        self.ascent.forget()  # a scaler may have skipped the step
        return loss

    @not_traced
    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> None:
        """Ascend along the gradients that are there: the first half of davda54/sam's recipe.

        The gradients are always cleared, whatever `zero_grad` says: their memory holds the perturbed weights.

        Raises:
            UserError: a second time without `second_step`, or as `perturbed` raises.
        """
        if self._open is not None:
            raise UserError(
                "first_step() was called twice: call second_step() between, or restore() to give up a step"
            )
        stack = ExitStack()
        stack.enter_context(self.perturbed())
        self._open = stack

    @not_traced
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back and take the base optimizer's step: the second half of davda54's recipe.

        Raises:
            UserError: no `first_step` before it, or fewer micro-batches replayed than accumulated.
        """
        if self._open is None:
            raise UserError("second_step() needs a first_step() before it")
        stack, self._open = self._open, None
        stack.close()
        self.step()
        if zero_grad:
            self.zero_grad()

    @not_traced
    def restore(self) -> None:
        """Put the weights back after a `first_step` whose second half will not come; otherwise do nothing."""
        stack, self._open = self._open, None
        if stack is not None:
            give_up(stack)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and forget the passes that made them."""
        self.base.zero_grad(set_to_none=set_to_none)
        self.ascent.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, which it can load, with a small section `saft` beside it.

        Raises:
            UserError: within a pass, where the weights may be perturbed.
        """
        if self._open is not None:
            raise UserError("the weights are perturbed, after first_step(): save after second_step()")
        self.ascent.require_rest("state_dict()")
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = {**self.base.state_dict(), "saft": self.ascent.state_dict()}
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of `state_dict`, or of the base optimizer on its own.

        Args:
            state_dict: without the section `saft`, only the base optimizer's state is loaded.

        Raises:
            UserError: it holds what another perturbation remembered.
        """
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
        if "found_inf" in self.__dict__ and self.__dict__["grad_scale"] is None and self.ascent.is_ready:
            require_unscaled(self.ascent.pairs.backwards)
        if "found_inf" in self.__dict__:
            result = step_scaled(self.base, self.__dict__["grad_scale"], self.__dict__["found_inf"])
        else:
            result = self.base.step()
        self.ascent.forget()  # a scaler may have skipped the step
        return result

    def __getattr__(self, name: str) -> Any:
        """Pass on `train` and `eval`, which schedule-free optimizers have, and loops ask for by hasattr."""
        if name not in ("train", "eval") or "base" not in self.__dict__:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        switch = getattr(self.base, name)

        def at_rest() -> Any:
            self.ascent.require_rest(f"{name}()")
            return switch()

        return at_rest

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "ascent": self.ascent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._warned_capturable_if_run_uncaptured = True
        super().__setstate__(state)

    def __repr__(self) -> str:
        return f"SAM({self.ascent.perturbation}, {self.base})"
