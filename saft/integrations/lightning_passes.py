"""The two passes of a step under Lightning: every micro-batch noted when it is run, and run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torchmetrics import Metric

from saft.errors import UserError
from saft.integrations.bookkeeping import put_back
from saft.integrations.repeatable import RepeatableCall
from saft.optim import Ascent
from saft.optim.give_up import give_up

__all__ = ["TwoPasses", "logged_once"]


class TwoPasses:
    """The strategy's `training_step` and `backward`, which hear of every micro-batch, and repeat it.

    No hook of a callback lies right before `training_step`, whose random numbers are those to replay: the
    module's `on_train_batch_start` comes between, and may draw some, or end the epoch.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, ascent: Ascent, ascends_alone: bool
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.ascent = ascent
        self.ascends_alone = ascends_alone
        self.micro_batches: list[RepeatableCall | None] = []
        self._current: RepeatableCall | None = None
        self._open: ExitStack | None = None
        self._training_step = trainer.strategy.training_step
        self._backward = trainer.strategy.backward

    def attach(self) -> None:
        """Take the place of the strategy's methods."""
        vars(self.trainer.strategy).update(training_step=self.training_step, backward=self.backward)

    def detach(self) -> None:
        """Restore the strategy's own methods."""
        for name in ("training_step", "backward"):
            vars(self.trainer.strategy).pop(name, None)

    def begin_step(self) -> None:
        """Called before the gradients are cleared; the first micro-batch has been forwarded."""
        self.micro_batches.clear()
        self.ascent.forget()

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """Open the first pass, and run the forward.

        Raises:
            UserError: rho is auto, which only an optimizer's closure can seek.
        """
        if self.ascent.perturbation.rise is not None:  # not only at the first ascent, which may be late
            raise UserError(self.ascent.advice.radius)
        self.give_up()
        self._current = RepeatableCall(arguments, keywords) if self._may_replay else None
        self._open = ExitStack()
        try:
            self._open.enter_context(self.ascent.first_pass())
            if self.ascends_alone and self.ascent.replays:
                self._open.enter_context(self._unreduced())
            output = self._training_step(*arguments, **keywords)
        except BaseException:
            self.give_up()
            raise
        if output is None:  # Lightning skips such a batch
            self.give_up()
        return output

    def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """Run the backward, and close the first pass.

        Args:
            loss: 0-dim.
            *arguments, **keywords: of the strategy's own `backward`.

        Returns:
            The loss, 0-dim.

        Raises:
            UserError: the replay cannot be made, as `Ascent.perturbed` raises.
        """
        try:
            loss = self._backward(loss, *arguments, **keywords)
        except BaseException:
            self.give_up()
            raise
        if self._open is not None:
            self._open.close()
            self._open = None
            self.micro_batches.append(self._current)
            if self.ascent.options.per_micro_batch and self.ascent.replays:
                with self._perturbed():
                    self._repeat(self._current)
        self._current = None
        return loss

    def finish_step(self) -> None:
        """Make the descent gradient of the step.

        Raises:
            UserError: the replay cannot be made, as `Ascent.perturbed` raises.
        """
        self.give_up()
        seen, self.micro_batches = self.micro_batches, []
        if not self.ascent.replays:
            self.ascent.skip_replay()
        elif seen and not self.ascent.options.per_micro_batch:
            with self._perturbed():
                for micro_batch in seen[:-1]:
                    with self._unreduced(), self.ascent.replay_pass():
                        self._repeat(micro_batch)
                with self.ascent.replay_pass():
                    self._repeat(seen[-1])

    def give_up(self) -> None:
        """Leave a first pass that has no backward, as if it had not been; weights are put back."""
        if self._open is not None:
            give_up(self._open)
        self._open, self._current = None, None

    @property
    def _may_replay(self) -> bool:
        # Not `ascent.replays`: whether rho is 0 may change within a step, with a learning rate set by hand.
        return self.ascent.perturbation.replays and self.ascent.perturbation.ascends(self.ascent.step)

    @contextmanager
    def _perturbed(self) -> Iterator[None]:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        reduce = dist.all_reduce if self.ascends_alone else None
        with torch.enable_grad(), self.ascent.perturbed(scaler, reduce=reduce), logged_once(self.module):
            yield

    def _repeat(self, micro_batch: RepeatableCall | None) -> None:
        assert micro_batch is not None
        arguments, keywords = micro_batch.again()
        output = self._training_step(*arguments, **keywords)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            raise UserError(
                "training_step returned a loss in the first pass, and None in the replay of the same batch"
            )
        self._backward(loss / self.trainer.accumulate_grad_batches, self.trainer.optimizers[0])

    def _unreduced(self) -> AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


@contextmanager
def logged_once(module: L.LightningModule) -> Iterator[None]:
    """Make `module.log` do nothing inside, and put its metrics back as they were."""
    metrics = {name: child for name, child in module.named_modules() if isinstance(child, Metric)}
    own = vars(module).copy()
    vars(module)["log"] = lambda *_, **__: None
    try:
        with put_back(metrics):
            yield
    finally:
        del vars(module)["log"]
        if "log" in own:
            vars(module)["log"] = own["log"]
