"""Sharpness-aware optimization under Lightning: a callback for automatic optimization.

Neither the module nor its optimizer changes:

```python
import lightning as L
import torch
from saft.integrations.lightning import SharpnessAware

class Regression(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

trainer = L.Trainer(
    callbacks=[SharpnessAware(rho=0.05)],
    max_epochs=2,
    accumulate_grad_batches=4,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(Regression(), torch.utils.data.DataLoader(torch.randn(128, 3), batch_size=8))
```

In manual optimization, and with Fabric, no callback is needed: wrap the optimizer, `saft.SAM(base)`, and use
`step(closure)`, or `first_pass()` and `perturbed()`. Under 16-mixed it has to be the latter two, since a
gradient scaler and a closure do not go together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric

from saft.config import counted
from saft.errors import UserError, did_you_mean
from saft.integrations.lightning_passes import TwoPasses
from saft.integrations.merge_in_training import MergeWith
from saft.merging.merge_models import Model
from saft.optim import SAM, Ascent, Perturbation, make_perturbation
from saft.optim.ascent_options import AscentOptions

__all__ = ["EvaluateMerge", "SharpnessAware"]

_FINDERS = (BatchSizeFinder, LearningRateFinder)


class SharpnessAware(L.Callback):
    r"""Makes the automatic optimization of any LightningModule sharpness-aware.

    After the backward of the last micro-batch of a step, and before clipping, it ascends and replays every
    micro-batch at w + epsilon through the trainer's strategy: $g = \nabla L(w + \epsilon)$ is what is
    reduced, clipped and stepped along. A step of k micro-batches runs forward and backward 2k times. In the
    replay `self.log` does nothing and metrics of the module are put back, so both show the loss at w; other
    things that `training_step` and its hooks change can ask `saft.optim.is_replay()`.

    Put it before callbacks that look at gradients in `on_before_optimizer_step`.

    Args:
        perturbation, rho: see `saft.SAM`.
        sync_ascent: on several replicas (DDP), reduce the gradient of the first pass too, so that all ascend
            along the mean gradient; by default each ascends along its own, which saves a reduction. Shards
            (ModelParallelStrategy) always ascend together.
        **options: those of `saft.optim.AscentOptions` (`per_micro_batch`, `fixed_storage`, `low_precision`),
            and further ones of a perturbation given by name, for example `every=10`.

    Raises:
        UserError: an unknown perturbation or option; when the fit begins, a trainer that cannot do it: FSDP1,
            DeepSpeed, manual optimization, `dataloader_iter`, Lightning's finders of learning rate and batch
            size, a checkpoint from within a step.

    Example:
        >>> callback = SharpnessAware("asam", rho=0.5, start=100)

    Source: Foret et al., ICLR 2021, arXiv 2010.01412. Differs from a SAM optimizer given to Lightning: that
    one replays only the last micro-batch, and Lightning calls its hooks in both passes.
    """

    def __init__(
        self,
        perturbation: str | Perturbation = "sam",
        *,
        rho: float | None = None,
        sync_ascent: bool = False,
        **options: Any,
    ) -> None:
        self.options, others = AscentOptions.split(options)
        self.perturbation = make_perturbation(perturbation, rho, **others)
        if self.options.per_micro_batch and sync_ascent:
            raise UserError(
                "per_micro_batch: micro-batches are not reduced one by one, so there is no gradient to"
                " synchronize: leave out sync_ascent"
            )
        self.sync_ascent = sync_ascent
        self._passes: TwoPasses | None = None
        self._loaded: dict[str, Any] = {}

    @property
    def ascent(self) -> Ascent | None:
        """The core object, from the start of the fit on."""
        return None if self._passes is None else self._passes.ascent

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs.

        Raises:
            UserError: see the class.
        """
        if stage != "fit":
            return
        strategy = trainer.strategy
        if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)) or strategy.handles_gradient_accumulation:
            raise UserError(
                f"{type(strategy).__name__} keeps gradients where they cannot be ascended along: use"
                " ModelParallelStrategy (FSDP2), or DDPStrategy"
            )
        if not pl_module.automatic_optimization:
            raise UserError(
                f"{type(pl_module).__name__} optimizes manually, where no callback can repeat a pass: take"
                " SharpnessAware away, return saft.SAM(optimizer) from configure_optimizers, and call"
                " `self.optimizers().step(closure)`"
            )
        if finders := [
            type(c).__name__ for c in getattr(trainer, "callbacks", ()) if isinstance(c, _FINDERS)
        ]:
            raise UserError(
                f"{finders[0]} removes all other callbacks while it searches, so it would try steps"
                " without an ascent: search without SharpnessAware and with saft.SAM(optimizer) returned from"
                " configure_optimizers, or set the value by hand"
            )
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise UserError(
                f"{type(pl_module).__name__}.training_step takes `dataloader_iter`, whose batch cannot be"
                " replayed: take `batch`"
            )
        if self._ascends_alone(trainer) and self.perturbation.remembers_gradients:
            raise UserError(
                f"{type(self.perturbation).__name__} keeps the first gradient, which must be the same on all"
                " replicas: SharpnessAware(..., sync_ascent=True)"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step, and with the memory, where the checkpoint was made.

        Raises:
            UserError: the optimizer is a saft.SAM, or the checkpoint was made within a step.
        """
        optimizer = trainer.optimizers[0]
        if isinstance(optimizer, SAM):
            raise UserError(
                "configure_optimizers returns saft.SAM, and SharpnessAware would ascend once more: return the"
                " base optimizer"
            )
        pending = self._loaded.pop("micro_batches", 0)
        if pending:
            raise UserError(
                f"the checkpoint was made within a step, {pending} of its micro-batches done; their gradients"
                " are not saved, so the run would not be the one that was interrupted: resume from a"
                " checkpoint made between steps, as ModelCheckpoint(every_n_train_steps=...) makes it"
            )
        ascent = _Ascent(optimizer, self.perturbation, modules=pl_module, options=self.options)
        ascent.step = trainer.global_step
        if self._loaded:
            ascent.load_state_dict(self._loaded)
        self._loaded = {}
        self._passes = TwoPasses(trainer, pl_module, ascent, self._ascends_alone(trainer))
        self._passes.attach()

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """A step begins: forget the micro-batches of one that was given up."""
        if self._passes is not None:
            self._passes.begin_step()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Ascend, and replay what was accumulated."""
        if self._passes is not None:
            self._passes.finish_step()

    def on_train_batch_end(self, *_: Any) -> None:
        """Leave a first pass whose backward never came."""
        if self._passes is not None:
            self._passes.give_up()

    def on_exception(self, *_: Any) -> None:
        """Put the weights back, for whoever saves them now; there will be no teardown."""
        self._leave()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Restore the strategy's own methods."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """Return the step, and what the perturbation remembers; of shards only if all ranks ask."""
        if self._passes is None:
            return dict(self._loaded)
        pending = len(self._passes.micro_batches)
        if pending:
            warnings.warn(
                f"this checkpoint is made within a step, {pending} of its micro-batches done, whose gradients"
                " are not saved: training cannot be resumed from it",
                stacklevel=2,
            )
        state = apply_to_collection(self._passes.ascent.state_dict(), Tensor, _whole)
        return {**state, "micro_batches": pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer is there."""
        self._loaded = dict(state_dict)

    def _ascends_alone(self, trainer: L.Trainer) -> bool:
        replicated = isinstance(trainer.strategy, DDPStrategy) and trainer.world_size > 1
        return replicated and not self.sync_ascent

    def _leave(self) -> None:
        if self._passes is not None:
            self._passes.give_up()
            self._passes.detach()


def _whole(tensor: Any) -> Tensor:
    """Return a tensor whose shards are put together: Lightning writes what the first rank has."""
    whole: Tensor = tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor
    return whole


class _Ascent(Ascent):
    def before_step(self) -> None:
        """Do nothing: Lightning runs the passes inside the optimizer's step, after this."""


class EvaluateMerge(L.Callback):
    """Merges the current weights with other checkpoints every few steps, and logs how good the merge is.

    The training goes on as if it had not been: weights, buffers, modes and random numbers are put back.

    Args:
        base: that all were fine-tuned from: a folder, or a model in memory.
        others: the other models, as {task: folder or model}.
        method: name of a merge method; the model that is trained comes first in the sum.
        evaluate: called with the merged model, in evaluation mode; returns name -> figure. They are logged
            as `merged/NAME`.
        every: steps of the optimizer between two merges, at least 1.
        module: dotted name of the part of the LightningModule that is merged; default: all of it.
        **options: further keys of a merge file, such as `parameters`, `scaling`, `exclude`.

    Raises:
        UserError: when the fit begins, with all that is wrong with the merge.

    Example:
        >>> callback = EvaluateMerge("base", {"b": "runs/b"}, "ties", lambda model: {}, every=100)
    """

    def __init__(
        self,
        base: Model,
        others: Mapping[str, Model],
        method: str,
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        *,
        every: int = 500,
        module: str = "",
        **options: Any,
    ) -> None:
        self.merge = MergeWith(base, others, method, options)
        if not callable(evaluate):
            raise UserError(
                f"evaluate: is {evaluate!r:.60}; give a function of the model that returns {{name: figure}}"
            )
        self.evaluate, self.every, self.module = evaluate, counted("every", every), module
        self._done = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell all that is wrong with the merge, before anything is trained."""
        self.merge.check(self._merged(pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step, which a resumed fit knows only now."""
        self._done = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Merge, evaluate and log, after every so many steps.

        Raises:
            UserError: what `evaluate` returned has no names or is no figures, or a model is not finite.
        """
        step = trainer.global_step
        if step == self._done or step % self.every:
            return
        self._done = step
        model = self._merged(pl_module)
        with self.merge.in_place_of(model, trainer.optimizers):
            figures = self.evaluate(model)
        if not isinstance(figures, Mapping) or not all(_is_figure(x) for x in figures.values()):
            raise UserError(f"evaluate: must return {{name: figure}}, but returned {figures!r:.60}")
        pl_module.log_dict({f"merged/{name}": figure for name, figure in figures.items()})

    def _merged(self, pl_module: L.LightningModule) -> nn.Module:
        """Return the part of the module that is merged, or raise."""
        try:
            return pl_module.get_submodule(self.module)
        except AttributeError:
            near = did_you_mean(str(self.module), [name for name, _ in pl_module.named_modules() if name])
            raise UserError(f"module: {type(pl_module).__name__} has no '{self.module}'{near}") from None


def _is_figure(figure: object) -> bool:
    """Return whether Lightning logs it: a number, a tensor of one, a metric of torchmetrics."""
    one = isinstance(figure, Tensor) and figure.numel() == 1
    return one or isinstance(figure, (Real, Metric))
