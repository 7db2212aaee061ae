"""Sharpness-aware training with Accelerate: the user's own loop, model, optimizer and scheduler."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from saft.errors import UserError
from saft.integrations.repeatable import RepeatableCall
from saft.optim import SAM, Ascent, Perturbation, is_replay, make_perturbation
from saft.optim.ascent_options import Advice, AscentOptions

try:
    from accelerate import Accelerator
except ImportError as missing:
    raise ImportError(
        "saft.integrations.accelerate needs the package accelerate: pip install accelerate"
    ) from missing

__all__ = ["SharpnessAware"]

Batch = TypeVar("Batch")

_ADVICE = Advice(
    replay=(
        "compute gradients by SharpnessAware.backward(compute_loss, batch), or under the Hugging Face Trainer"
        " by super().training_step(...)"
    ),
    first_pass=(
        "compute gradients by SharpnessAware.backward(compute_loss, batch), or under the Hugging Face Trainer"
        " by super().training_step(...)"
    ),
    accumulate=(
        "accumulate micro-batches inside `with accelerator.accumulate(model):`, with"
        " Accelerator(gradient_accumulation_steps=...), so that all are replayed; or ascend for each with"
        " SharpnessAware(..., per_micro_batch=True)"
    ),
)


class SharpnessAware:
    r"""Makes the gradient in an Accelerate loop sharpness-aware; everything else stays as it was.

    In place of `accelerator.backward(loss)`, `backward(compute_loss, batch)` runs forward and backward at w;
    with the last micro-batch of an accumulation window it ascends and replays all of them at w + epsilon.
    `.grad` then holds $\nabla L(w + \epsilon)$ of the whole batch, for clipping and the prepared optimizer's
    own step. What the ascent must remember is saved and loaded with the optimizer's state.

    Args:
        accelerator: on one device, or with DistributedDataParallel; any mixed precision.
        model: the prepared model, or all that are trained by `optimizer`.
        optimizer: the prepared optimizer, for example AdamW.
        perturbation: a name of `saft.optim.PERTURBATIONS`, or an instance.
        rho: radius of the ascent step, at least 0; by default the perturbation's own.
        sync_ascent: reduce the gradients of the first pass as well, so that all replicas ascend along the
            gradient of the global batch. By default each ascends along that of its own part, as the original
            implementation does, which saves one reduction a step; the descent gradient is always reduced.
        **options: those of `saft.optim.AscentOptions` (`per_micro_batch`, which here holds no batches,
            `fixed_storage`, `low_precision`), and further ones of a perturbation given by name, for example
            `every=10` or `start=500`.

    Raises:
        UserError: FSDP, DeepSpeed, or another engine that shards; an unknown perturbation or option; a
            combination that cannot work.

    Example:
        >>> from accelerate import Accelerator
        >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        >>> model = nn.Linear(4, 1)
        >>> loader = torch.utils.data.DataLoader(torch.randn(16, 4), batch_size=4)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        >>> sharpness_aware = SharpnessAware(accelerator, model, optimizer, rho=0.05)
        >>> def compute_loss(batch):
        ...     return model(batch).square().mean()
        >>> for batch in loader:
        ...     with accelerator.accumulate(model):
        ...         loss = sharpness_aware.backward(compute_loss, batch)
        ...         if accelerator.sync_gradients:
        ...             _ = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> sharpness_aware.ascent.step
        2

    Source: Foret et al., ICLR 2021, arXiv 2010.01412.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module | Iterable[nn.Module],
        optimizer: Optimizer,
        perturbation: str | Perturbation = "sam",
        *,
        rho: float | None = None,
        sync_ascent: bool = False,
        **options: Any,
    ) -> None:
        own, others = AscentOptions.split(options)
        self.accelerator = accelerator
        self.models = (model,) if isinstance(model, nn.Module) else tuple(model)
        self.sync_ascent = sync_ascent
        self.ascent = Ascent(
            optimizer,
            make_perturbation(perturbation, rho, **others),
            modules=self.models,
            options=own,
            advice=_ADVICE,
        )
        self._window: list[Callable[[], Tensor]] = []
        self._refuse()
        self._ride_along()

    def backward(self, compute_loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """Run forward and backward of a micro-batch, in place of `accelerator.backward`, and replays if due.

        Args:
            compute_loss: maps a batch to a loss. It is called once at w and once at w + epsilon, where
                `saft.optim.is_replay()` is true; it must depend only on its argument. What it takes out of
                the batch, or replaces in it, is as before in the second call.
            batch: the micro-batch; kept until the last one of the accumulation window.

        Returns:
            The loss at w, detached.

        Raises:
            UserError: `compute_loss` is not a function, gives no scalar loss, or changed a tensor of the
                batch in place; or an earlier micro-batch was neither stepped along nor accumulated by the
                accelerator.
        """
        if not callable(compute_loss):
            raise UserError(
                f"backward(compute_loss, batch) takes a function of the batch, not a {_called(compute_loss)}:"
                " it is called once at w, and again at w + epsilon: write"
                " `sharpness_aware.backward(lambda batch: model(**batch).loss, batch)`"
            )

        call = RepeatableCall((batch,), {})

        def forward_backward() -> Tensor:
            loss = compute_loss(call.again()[0][0] if is_replay() else batch)
            self.accelerator.backward(loss)
            return loss.detach()

        return self.take(forward_backward)

    def take(
        self, forward_backward: Callable[[], Tensor], models: Iterable[nn.Module] | None = None
    ) -> Tensor:
        """Run a micro-batch given as a function that runs forward and backward, and replays if due.

        Args:
            forward_backward: runs both and returns the loss, 0-dim; called again for the replay.
            models: those whose gradients are reduced; by default those of construction.

        Returns:
            What the first call returned.

        Raises:
            UserError: as `backward`.
        """
        ascent = self.ascent
        if ascent.perturbation.rise is not None:  # not only at the first ascent, which may be late
            raise UserError(ascent.advice.radius)
        models = self.models if models is None else tuple(models)
        with ascent.first_pass(), self._unreduced(models, when=ascent.replays and not self.sync_ascent):
            loss = forward_backward()
        self._window.append(forward_backward)
        if not (self.accelerator.sync_gradients or ascent.options.per_micro_batch):
            return loss
        window, self._window = self._window, []
        if not ascent.replays:
            ascent.skip_replay()
            return loss
        with ascent.perturbed(self.accelerator.scaler, reduce=self._reduce):
            for i, again in enumerate(window, start=1):
                with ascent.replay_pass(), self._unreduced(models, when=i < len(window)):
                    again()
        return loss

    def forget(self) -> None:
        """Forget the micro-batches of this window: their gradients were cleared, the batch is given up."""
        self._window.clear()
        self.ascent.forget()

    @contextmanager
    def _unreduced(self, models: Iterable[nn.Module], when: bool) -> Iterator[None]:
        with ExitStack() as stack:
            for model in models if when else ():
                stack.enter_context(self.accelerator.no_sync(model))
            yield

    @property
    def _reduce(self) -> Callable[[Tensor], object] | None:
        shares_gradient = self.sync_ascent or self.accelerator.num_processes == 1
        return None if shares_gradient else torch.distributed.all_reduce

    def _refuse(self) -> None:
        perturbation = self.ascent.perturbation
        engine = self.accelerator.distributed_type.value
        sharded = any(hasattr(p, "to_local") for model in self.models for p in model.parameters())
        if isinstance(self.ascent.parameter_groups.optimizer, SAM):
            raise UserError(
                "the optimizer is a saft.SAM already: give the one that it wraps, for example AdamW"
            )
        if sharded or not (engine == "NO" or engine.startswith("MULTI_")):
            raise UserError(
                "sharpness-aware training with Accelerate or the Hugging Face Trainer does not support"
                f" {'sharded models' if sharded else engine}: use DistributedDataParallel; or saft.SAM in a"
                " loop of your own, which takes FSDP2 models (fully_shard)"
            )
        if self.ascent.options.per_micro_batch and self.sync_ascent:
            raise UserError(
                "per_micro_batch ascends along the micro-batches of each replica: leave out sync_ascent"
            )
        if perturbation.remembers_gradients and self.accelerator.num_processes > 1 and not self.sync_ascent:
            raise UserError(
                f"{type(perturbation).__name__} uses the first gradient again, which must then be the same on"
                " every replica: set sync_ascent=True"
            )

    def _ride_along(self) -> None:
        """Join the state of the optimizer."""
        optimizer, owner = self.ascent.parameter_groups.optimizer, weakref.ref(self)
        if optimizer is None:
            raise UserError("optimizer must be a prepared optimizer, for example of AdamW")

        def save(_: Optimizer, state_dict: dict[str, Any]) -> None:
            if (alive := owner()) is not None:
                state_dict["saft"] = alive.ascent.state_dict()

        def load(_: Optimizer, state_dict: dict[str, Any]) -> None:
            section = state_dict.pop("saft", None)
            if (alive := owner()) is not None and section is not None:
                alive.ascent.load_state_dict(section)

        optimizer.register_state_dict_post_hook(save)
        optimizer.register_load_state_dict_pre_hook(load)


def _called(value: object) -> str:
    return "loss" if isinstance(value, Tensor) else type(value).__name__
