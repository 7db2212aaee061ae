"""The core: compute a perturbation, apply it, replay the batch under it, and undo it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from saft.errors import UserError
from saft.optim.ascent_options import ADVICE, WHOLE_BATCH, Advice, AscentOptions
from saft.optim.ascent_state import restored, saved
from saft.optim.batch_norm import frozen_statistics
from saft.optim.displacement import in_place
from saft.optim.grad_scaler import gradient_scale, has_unscaled, spread_non_finite, unscale_again
from saft.optim.make_slots import gradient_slots, has_replicas, make_slots
from saft.optim.memory import Memory
from saft.optim.not_compiled import not_compiled, not_traced
from saft.optim.others_radius import Change, with_radius_of_others
from saft.optim.parameter_groups import Groups, ParameterGroups, clear_gradients
from saft.optim.pass_pairs import PassPairs
from saft.optim.perturbations.base import Perturbation, make_perturbation
from saft.optim.replay_flag import replaying
from saft.optim.slots import AscentSlots

__all__ = ["Ascent"]

Phase = Literal["rest", "first pass", "replay"]


class Ascent:
    """Ascent, replay and restoration, finished before the base optimizer is asked to step.

    It holds no list of parameters: groups are read each time, so that whatever a trainer does to them is
    seen. Given an optimizer, it counts that optimizer's steps by hooks; given anything else, call `advance`
    after a step.

    Accumulation has two honest forms. Whole batch (the default): `first_pass` for each micro-batch, then one
    `perturbed` with a `replay_pass` for each. Per micro-batch (m-sharpness, `per_micro_batch=True`):
    `first_pass` and `perturbed` for each. Replaying fewer micro-batches than were accumulated raises.

    Args:
        source: an optimizer, parameter groups, or a function that returns parameter groups.
        perturbation: a name of `saft.optim.PERTURBATIONS`, or an instance.
        modules: the models that are trained: for names of parameters, and to find batch norms in compiled
            models.
        options: per micro-batch or whole batch, fixed storage, low precision.
        advice: how the user of a front end mends a mistake, for messages.

    Attributes:
        step: number of optimizer steps taken.
        others: where rho is others, parameter -> what all other task vectors together change of it.
        is_ready: whether the gradients are the descent gradient of this step, replayed or said to need none.
        parameter_groups: the parameters, and the optimizer behind them, read each time.
        pairs: the first passes of this step, with their random numbers, and how many were replayed.

    Raises:
        UserError: an unknown perturbation, a combination that cannot work, or an optimizer that maximizes.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> ascent = Ascent(optimizer, "sam")
        >>> with ascent.first_pass():
        ...     model(torch.ones(1, 2)).sum().backward()
        >>> if ascent.replays:
        ...     with ascent.perturbed():
        ...         model(torch.ones(1, 2)).sum().backward()
        ... else:
        ...     ascent.skip_replay()
        >>> optimizer.step()
        >>> ascent.step
        1
    """

    def __init__(
        self,
        source: Optimizer | Iterable[Any] | Callable[[], Groups],
        perturbation: str | Perturbation = "sam",
        *,
        modules: nn.Module | Iterable[nn.Module] = (),
        options: AscentOptions = WHOLE_BATCH,
        advice: Advice = ADVICE,
    ) -> None:
        self.perturbation = make_perturbation(perturbation)
        self.modules = (modules,) if isinstance(modules, nn.Module) else tuple(modules)
        self.options = options
        self.advice = advice
        self.step = 0
        self.parameter_groups = ParameterGroups(source)
        self.others: Change | None = None
        self._memory = Memory()
        options.require_form_of(self.perturbation)
        if self.perturbation.rho:
            self.parameter_groups.refuse_what_ascents_ignore(self.perturbation.replays)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._phase: Phase = "rest"
        self.is_ready = False
        self.pairs = PassPairs()
        self._stash: dict[Tensor, Tensor] = {}
        self.parameter_groups.register_step_hooks(self)
        if self.parameter_groups.optimizer is not None:  # from the first backward on
            self.pairs.backwards.watch(self.parameter_groups.trainable)

    @property
    def rho(self) -> float:
        """The radius at this step; 0 where the step has no ascent."""
        if not self.perturbation.ascends(self.step):
            return 0.0
        return self.perturbation.radius(self.step, self.parameter_groups.leading)

    @property
    def replays(self) -> bool:
        """Whether this step needs a second pass."""
        return self.perturbation.replays and self.rho != 0

    @property
    def needs_radius(self) -> bool:
        """Whether rho is auto, and to be found before this step by `saft.optim.auto_radius.find_radius`."""
        return self.perturbation.rise is not None and self.perturbation.ascends(self.step)

    @not_compiled
    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Run forward and backward at w inside, once for each micro-batch.

        The replay gets the same random numbers. A perturbation that needs no replay is in place inside.

        Raises:
            UserError: inside another pass.
        """
        self.require_rest("first_pass()")
        parameters = self.parameter_groups.trainable
        self.is_ready = False
        self.pairs.record(parameters)
        if self.options.per_micro_batch and self.replays:
            self._stash = {p: p.grad for p in parameters if p.grad is not None}
            clear_gradients(parameters, {})
        self._phase = "first pass"
        try:
            if self.rho != 0 and not self.perturbation.replays:
                slots = self._slots(parameters)
                with torch.no_grad():
                    self.perturbation.displace(slots, self.rho)
                with in_place(slots.slots):
                    del slots
                    yield
            else:
                yield
        except BaseException:
            self.pairs.drop_last()
            for parameter, gradient in self._stash.items():
                parameter.grad = gradient
            self._stash = {}
            raise
        finally:
            self._phase = "rest"

    @not_compiled
    @contextmanager
    def perturbed(
        self,
        scaler: GradScaler | None = None,
        optimizer: Any = None,
        reduce: Callable[[Tensor], object] | None = None,
    ) -> Iterator[None]:
        """Ascend along the gradients that are there, and run the replay at w + epsilon inside.

        On entry the gradients are used up and cleared; on exit, whatever happened inside, the weights are
        back bit for bit, batch norms and random numbers go on as if there had been one pass, and `.grad`
        holds the descent gradient. A first gradient with inf or nan makes the replay run at w and its
        gradient nan, so that whoever guards the step (a gradient scaler) sees it. On a step without an
        ascent, it is a second pass at w.

        Args:
            scaler: the gradient scaler, needed if it has unscaled the first gradients (the replayed ones are
                then unscaled too), or if the perturbation averages gradients over steps. Scale the loss in
                both passes.
            optimizer: what the scaler knows the optimizer as, where that is a wrapper around `source`.
            reduce: where replicas ascend each along its own gradient, `torch.distributed.all_reduce`: an inf
                or nan in the first gradient of one then makes the descent gradients of all nan. It
                changes a 0-dim tensor in place.

        Raises:
            UserError: no gradients, or weights that cannot be perturbed, or fewer micro-batches replayed than
                seen, or a descent gradient that no step was taken along yet.
        """
        self.require_rest("perturbed()")
        if self.needs_radius:
            raise UserError(self.advice.radius)
        if not self.options.per_micro_batch:
            self.pairs.require_step(self.advice.accumulate)
        elif self.replays:
            self.pairs.require_single()
        parameters = self.parameter_groups.trainable
        with_gradient = [p for p in parameters if p.grad is not None]
        unscaled = has_unscaled(scaler, (self.parameter_groups.optimizer, optimizer))
        changed = self.pairs.backwards.was_changed_in_place() and not has_replicas()
        kept, check, slots = None, None, None
        with torch.no_grad():
            if self.rho != 0:
                scale = gradient_scale(scaler, unscaled is not None)
                slots = self._slots(with_gradient if self.perturbation.replays else parameters, scale)
                kept = self.perturbation.keep(slots)
                self.perturbation = with_radius_of_others(self.perturbation, slots, self.others)
            clear_gradients(parameters, self._stash)
            if slots is not None:
                check = self.perturbation.displace(slots, self.rho)
        self._phase = "replay"
        try:
            with (
                in_place(slots.slots if slots else []),
                self.pairs.replaying(with_gradient),
                replaying(),
                frozen_statistics(self.modules),
            ):
                del slots
                yield
        finally:
            self._phase = "rest"
            self._stash = {}
        with torch.no_grad():
            if check is not None:
                if reduce is not None:
                    reduce(check)
                spread_non_finite(check, parameters)
            if scaler is not None and unscaled is not None:
                unscale_again(scaler, unscaled)
            if kept is not None:
                self.perturbation.descend(self._gradient_slots(), kept)
            elif self._finishes:
                self.perturbation.finish(self._gradient_slots(), self.rho)
        self.is_ready = True
        self.pairs.backwards.watch([p for p in parameters if p.grad is not None])
        self.pairs.backwards.expect_step(changed if scaler is None else None)

    @not_compiled
    @contextmanager
    def replay_pass(self) -> Iterator[None]:
        """Replay the next micro-batch inside, with its own dropout masks; a single one needs no mark.

        Raises:
            UserError: not inside `perturbed`, or more replays than first passes.
        """
        if self._phase != "replay":
            raise UserError("replay_pass() belongs inside `with perturbed():`")
        with self.pairs.replay():
            yield

    @not_traced
    def skip_replay(self) -> None:
        """Declare that this step has no replay: the first gradient becomes the descent gradient.

        It matters to perturbations that change this gradient (LookSAM, SMAT), and then before clipping; the
        step's hook does it otherwise.

        Raises:
            UserError: inside a pass.
        """
        self.require_rest("skip_replay()")
        if not self.is_ready and self._finishes:
            with torch.no_grad():
                self.perturbation.finish(self._gradient_slots(), self.rho)
        self.is_ready = True

    def forget(self) -> None:
        """Forget the first passes of this step: the gradients were cleared and the batch is given up."""
        if self._phase != "replay":  # where it is a closure that zeroes, as it should
            self.pairs.forget(keep_last=self._phase == "first pass")
            self._stash, self.is_ready = {}, False

    def advance(self) -> None:
        """Count an optimizer step; called by a hook where `source` is an optimizer."""
        self.step += 1
        self.pairs.forget()
        self.is_ready = False

    def state_dict(self) -> dict[str, Any]:
        """Return the step, and what the perturbation remembers by position of the parameter."""
        return saved(self.perturbation, self.step, self._memory.by_position(self.parameter_groups.parameters))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was made.

        Raises:
            UserError: it is another perturbation's and holds what that one remembered.
        """
        self.perturbation = restored(self.perturbation, state_dict)
        self.step = int(state_dict["step"])
        self._memory.load(state_dict["memory"], self.parameter_groups.parameters)
        self.forget()

    @property
    def _finishes(self) -> bool:
        made = self.perturbation
        return made.finishes_gradient and self.step >= made.start and not self.replays

    def _slots(self, parameters: Sequence[Tensor], grad_scale: Tensor | float = 1.0) -> AscentSlots:
        self.parameter_groups.refuse_what_ascents_ignore(self.perturbation.replays)
        slots = make_slots(
            self.parameter_groups, parameters, self.perturbation, self._memory, self.modules, self.options
        )
        return AscentSlots(slots, self.step, grad_scale)

    def _gradient_slots(self) -> AscentSlots:
        slots = gradient_slots(self.parameter_groups, self.perturbation, self._memory, self.modules)
        return AscentSlots(slots, self.step)

    def require_rest(self, what: str) -> None:
        """Check that the code is not inside a pass, where `what` does not belong.

        Raises:
            UserError: inside a first pass or a replay.
        """
        if self._phase != "rest":
            raise UserError(f"{what} inside the {self._phase} of the same step: leave that first")

    def before_step(self) -> None:
        """Check that a step may come now, and make the gradient ready for it; called by a hook.

        Raises:
            UserError: inside a pass, or before the passes that this step needs.
        """
        self.require_rest("the optimizer's step()")
        free = self.is_ready or self.rho == 0 or self.parameter_groups.has_zero_learning_rate
        if self.perturbation.replays and not free:
            raise UserError(
                f"step() without a replay of this batch would be a plain step: {self.advice.replay}"
            )
        if not (free or len(self.pairs)):
            name = type(self.perturbation).__name__
            raise UserError(f"{name} perturbs the first pass, and there was none: {self.advice.first_pass}")
        if self._finishes and not self.is_ready:
            self.skip_replay()

    def __getstate__(self) -> dict[str, Any]:
        self.require_rest("a copy of the optimizer")  # which could not put the weights back
        kept = ("perturbation", "modules", "options", "advice", "step", "parameter_groups")
        return {name: getattr(self, name) for name in (*kept, "others", "_memory")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_afresh()
