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
from saft.optim.batch_norm import frozen_statistics
from saft.optim.displacement import in_place
from saft.optim.grad_scaler import gradient_scale, has_unscaled, spread_non_finite, unscale_again
from saft.optim.make_slots import LowPrecision, gradient_slots, make_slots, require_low_precision
from saft.optim.parameter_groups import Groups, ParameterGroups
from saft.optim.pass_pairs import PassPairs
from saft.optim.perturbations.base import Perturbation, make_perturbation
from saft.optim.replay_flag import replaying
from saft.optim.slots import AscentSlots

__all__ = ["Ascent"]

Phase = Literal["rest", "first pass", "replay"]


class Ascent:
    """Ascent, replay and restoration, finished before the base optimizer is asked to step.

    It holds no list of parameters: groups are read anew each time, so that whatever a trainer does to them is
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
        per_micro_batch: ascend for each micro-batch; holds one more copy of the gradients.
        fixed_storage: overwrite and restore the weights, instead of pointing parameters at other memory; for
            CUDA graphs. Sharded (DTensor) and aliased parameters are always treated so.
        low_precision: what to do with weights stored in bfloat16 or float16, where a perturbation rounds
            away: "refuse", or "float32": in the replay the parameters are float32 copies at w + epsilon, and
            the gradients are cast back at its end. That replay computes in float32, so its inputs must suit.

    Raises:
        UserError: an unknown perturbation or value, or a combination that cannot work.

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
        per_micro_batch: bool = False,
        fixed_storage: bool = False,
        low_precision: LowPrecision = "refuse",
    ) -> None:
        require_low_precision(low_precision)
        self.perturbation = make_perturbation(perturbation)
        self.modules = (modules,) if isinstance(modules, nn.Module) else tuple(modules)
        self.per_micro_batch = per_micro_batch
        self.fixed_storage = fixed_storage
        self.low_precision: LowPrecision = low_precision
        self.step = 0
        self.parameter_groups = ParameterGroups(source)
        self._memory: dict[Tensor, dict[str, Tensor]] = {}
        if per_micro_batch and (
            self.perturbation.uses_first_gradient or self.perturbation.reuses_last_ascent
        ):
            raise UserError(
                f"{type(self.perturbation).__name__} combines the gradients of the whole batch: it has no"
                " form per micro-batch"
            )
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
        return self.perturbation.radius(self.step, self.parameter_groups.current[0])

    @property
    def replays(self) -> bool:
        """Whether this step needs a second pass."""
        return self.perturbation.replays and self.rho != 0

    @property
    def is_perturbed(self) -> bool:
        """Whether the weights are at w + epsilon now, and must not be saved or evaluated."""
        here = "replay" if self.perturbation.replays else "first pass"
        return self._phase in (here, "replay") and self.rho != 0

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Run forward and backward at w inside, once for each micro-batch.

        It remembers the random number generators, so that the replay has the same dropout masks. A
        perturbation that needs no replay is in place inside.
        """
        self._require_rest("first_pass()")
        parameters = self.parameter_groups.trainable
        self.is_ready = False
        self.pairs.record(p.device for p in parameters)
        if self.per_micro_batch and self.replays:
            self._stash = {p: p.grad for p in parameters if p.grad is not None}
            _clear(parameters, {})
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
                or nan in the first gradient of one then makes the descent gradients of all nan. It is given
                one number, and changes it in place.

        Raises:
            UserError: no gradients, or weights that cannot be perturbed, or fewer micro-batches replayed than
                seen.
        """
        self._require_rest("perturbed()")
        if self.per_micro_batch and self.replays and len(self.pairs) != 1:
            raise UserError(
                "per_micro_batch: each micro-batch needs its own `with first_pass():` before perturbed()"
            )
        parameters = self.parameter_groups.trainable
        with_gradient = [p for p in parameters if p.grad is not None]
        unscaled = has_unscaled(scaler, (self.parameter_groups.optimizer, optimizer))
        kept, check, slots = None, None, None
        with torch.no_grad():
            if self.rho != 0:
                scale = gradient_scale(scaler, unscaled is not None)
                slots = self._slots(with_gradient if self.perturbation.replays else parameters, scale)
                kept = self.perturbation.keep(slots)
            _clear(parameters, self._stash)
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
            elif self._reuses:
                self.perturbation.reuse(self._gradient_slots())
        self.is_ready = True

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

    def skip_replay(self) -> None:
        """Say that this step has no replay: the first gradient becomes the descent gradient.

        It matters to perturbations that reuse an older ascent (LookSAM), and then before clipping; the step's
        hook does it otherwise.
        """
        self._require_rest("skip_replay()")
        if not self.is_ready and self._reuses:
            with torch.no_grad():
                self.perturbation.reuse(self._gradient_slots())
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
        parameters = self.parameter_groups.parameters
        memory = {index: dict(self._memory[p]) for index, p in enumerate(parameters) if self._memory.get(p)}
        return {"perturbation": type(self.perturbation).__name__, "step": self.step, "memory": memory}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was made.

        Raises:
            UserError: it is another perturbation's and holds what that one remembered.
        """
        found, mine = state_dict["perturbation"], type(self.perturbation).__name__
        if found != mine and state_dict["memory"]:
            raise UserError(
                f"the checkpoint holds what {found} remembered, but this optimizer has {mine}: construct it"
                " with the same perturbation, or load the base optimizer's state alone"
            )
        parameters = self.parameter_groups.parameters
        self.step = int(state_dict["step"])
        self._memory = {
            (p := parameters[int(index)]): {key: value.to(p.device, copy=True) for key, value in kept.items()}
            for index, kept in state_dict["memory"].items()
        }
        self.pairs.forget()
        self.is_ready = False

    @property
    def _reuses(self) -> bool:
        return (
            self.perturbation.reuses_last_ascent and self.step >= self.perturbation.start and not self.replays
        )

    def _slots(self, parameters: Sequence[Tensor], grad_scale: Tensor | float = 1.0) -> AscentSlots:
        slots = make_slots(
            self.parameter_groups,
            parameters,
            self.perturbation,
            self._memory,
            modules=self.modules,
            low_precision=self.low_precision,
            fixed_storage=self.fixed_storage,
        )
        return AscentSlots(slots, self.step, grad_scale)

    def _gradient_slots(self) -> AscentSlots:
        return AscentSlots(gradient_slots(self.parameter_groups.trainable, self._memory), self.step)

    def _require_rest(self, what: str) -> None:
        if self._phase != "rest":
            raise UserError(f"{what} inside the {self._phase} of the same step: leave that first")

    def before_step(self) -> None:
        """Check that a step may come now, and make the gradient ready for it; called by a hook."""
        self._require_rest("the optimizer's step()")
        if self._reuses and not self.is_ready:
            self.skip_replay()
        if self.perturbation.replays or self.rho == 0 or len(self.pairs) or self.is_ready:
            return
        if not self.parameter_groups.has_zero_learning_rate:
            raise UserError(
                f"{type(self.perturbation).__name__} perturbs the first pass, and there was none: put it"
                " inside `with first_pass():`, or call `step(closure)`"
            )

    def __getstate__(self) -> dict[str, Any]:
        kept = (
            "perturbation",
            "modules",
            "per_micro_batch",
            "fixed_storage",
            "low_precision",
            "step",
            "parameter_groups",
            "_memory",
        )
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_afresh()


def _clear(parameters: Iterable[Tensor], instead: Mapping[Tensor, Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = instead.get(parameter)
