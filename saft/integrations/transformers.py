"""Sharpness-aware training with the Hugging Face Trainer, or any trainer derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback

from saft.config import counted
from saft.errors import UserError
from saft.integrations.accelerate import SharpnessAware
from saft.integrations.bookkeeping import put_back
from saft.integrations.merge_in_training import MergeWith
from saft.integrations.repeatable import PreparedInputs, RepeatableCall
from saft.merging.merge_models import Model
from saft.optim import is_replay
from saft.optim.parameter_groups import ParameterGroups

__all__ = ["EvaluateMerge", "SharpnessAwareMixin"]

# From here on the Trainer itself says which micro-batch is the last of an accumulation window.
_OLDEST = (4, 47)


class SharpnessAwareMixin:
    """Makes a Hugging Face Trainer sharpness-aware; its optimizer, scheduler and loop stay as they were.

    Each micro-batch runs through the Trainer's own `training_step`; with the last one of an accumulation
    window the weights ascend, all of them are replayed at w + epsilon, and the weights are put back bit for
    bit, before the Trainer clips and steps. The loss that is logged is the one at w. What the ascent must
    remember is in the checkpoint, within the optimizer's state.

    Put it before the trainer: `class MyTrainer(SharpnessAwareMixin, SFTTrainer)`. What a trainer prepares in
    `_prepare_inputs`, be it generated (TRL's GRPO, RLOO), is prepared once, and both passes see it. A
    `compute_loss` of your own is called in both passes; `saft.optim.is_replay()` tells them apart. What it
    collects in attributes of the trainer (numbers, lists, dictionaries, metrics), and what it logs, is that
    of the first pass.

    Args:
        *args: of the Trainer.
        sharpness_aware: options of `saft.integrations.accelerate.SharpnessAware`: `perturbation` ("sam"),
            `rho` (the perturbation's own), `per_micro_batch` (False), `sync_ascent` (False), `fixed_storage`,
            `low_precision`, and those of the perturbation, for example
            `{"perturbation": "asam", "rho": 0.5}`. By default plain SAM with rho 0.05.
        **kwargs: of the Trainer.

    Raises:
        UserError: FSDP, DeepSpeed, optimizers that step within the backward pass, a Trainer older than 4.47,
            trainers that generate within `training_step` or `compute_loss`, or options that cannot work; all
            at construction. In training: a step that did not go through `training_step`.

    Example:
        >>> import tempfile
        >>> from transformers import TrainingArguments
        >>> class MyTrainer(SharpnessAwareMixin, Trainer):
        ...     pass
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(2, 2)
        ...     def forward(self, x, labels):
        ...         return {"loss": nn.functional.cross_entropy(self.layer(x), labels)}
        >>> data = [{"x": torch.randn(2), "labels": i % 2} for i in range(16)]
        >>> folder = tempfile.mkdtemp()
        >>> args = TrainingArguments(
        ...     folder, max_steps=2, gradient_accumulation_steps=2, report_to="none", disable_tqdm=True,
        ...     save_strategy="no", use_cpu=True, dataloader_pin_memory=False)
        >>> options = {"perturbation": "asam", "rho": 0.5}
        >>> trainer = MyTrainer(Model(), args, train_dataset=data, sharpness_aware=options)
        >>> trainer.train().global_step
        {'train_runtime': ...}
        2

    Source: Foret et al., ICLR 2021, arXiv 2010.01412.
    """

    accelerator: Any
    state: Any
    args: Any
    model: Any
    optimizer: Any
    _sharpness_aware: SharpnessAware | None = None
    _inputs: PreparedInputs | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(SharpnessAwareMixin):
            raise UserError(
                f"{cls.__name__}: SharpnessAwareMixin must come before the trainer, or it changes nothing:"
                f" class {cls.__name__}(SharpnessAwareMixin, Trainer)"
            )

    def __init__(self, *args: Any, sharpness_aware: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        version = transformers.__version__
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise UserError(f"SharpnessAwareMixin needs transformers 4.47 or newer, but this is {version}")
        if not isinstance(sharpness_aware, Mapping | None):
            raise UserError(
                f"sharpness_aware: must be a dictionary of options, but is {sharpness_aware!r}: write"
                " sharpness_aware={'rho': 0.05}, or {'perturbation': 'asam', 'rho': 0.5}"
            )
        _refuse_generation(type(self))
        super().__init__(*args, **kwargs)
        if any(kind in str(self.args.optim).lower() for kind in ("lomo", "layerwise")):
            raise UserError(
                f"optim={str(self.args.optim)!r} steps within the backward pass, before there is a gradient"
                " to ascend along: choose another, for example 'adamw_torch'"
            )
        self._options = dict(sharpness_aware or {})
        # The optimizer comes later, but mistakes are reported now.
        self._made_for(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """Create the Trainer's optimizer, and the ascent that goes with it."""
        optimizer: Optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if (made := self._known_for(optimizer)) is not None:
            made.forget()  # training begins again
        else:
            self._sharpness_aware = self._made_for(optimizer)
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the Trainer's step for a micro-batch, with the last one the replay; return the first loss.

        Args:
            model: as the Trainer has wrapped it.
            inputs: of one micro-batch.
            *args, **kwargs: of the Trainer's own `training_step`.

        Returns:
            The loss of the first pass, 0-dim.

        Raises:
            UserError: the optimizer was made elsewhere, or the first pass changed its batch in place.
        """
        if (made := self._known_for(self.optimizer)) is None:
            raise UserError(
                f"the optimizer was made behind SharpnessAwareMixin's back: let {type(self).__name__}"
                ".create_optimizer() set self.optimizer and end with `return super().create_optimizer()`"
            )
        call = RepeatableCall((model, inputs, *args), kwargs)
        prepared = PreparedInputs([self.args.device])
        run = super().training_step  # type: ignore[misc]

        def step() -> Tensor:
            arguments, keywords = call.again() if is_replay() else ((model, inputs, *args), kwargs)
            with self._in_pass(prepared):
                loss: Tensor = run(*arguments, **keywords)
            return loss

        return made.take(step, [model])

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Prepare a batch as the trainer does, once for both passes."""
        prepare = super()._prepare_inputs  # type: ignore[misc]
        if self._inputs is None or prepare.__func__ is Trainer._prepare_inputs:
            return prepare(inputs)
        return self._inputs.take(lambda: prepare(inputs))

    @contextmanager
    def _in_pass(self, prepared: PreparedInputs) -> Iterator[None]:
        self._inputs = prepared
        try:
            if not is_replay():
                yield
                return
            with put_back(vars(self.state)), put_back(vars(self), but=("train_dataset", "eval_dataset")):
                vars(self)["log"] = lambda *_, **__: None
                yield
        finally:
            self._inputs = None

    def _made_for(self, optimizer: Optimizer) -> SharpnessAware:
        return SharpnessAware(self.accelerator, self.model, optimizer, **self._options)

    def _known_for(self, optimizer: Optimizer) -> SharpnessAware | None:
        made = self._sharpness_aware
        known = (
            made is not None
            and made.ascent.parameter_groups.optimizer is ParameterGroups(optimizer).optimizer
        )
        return made if known else None


def _refuse_generation(kind: type) -> None:
    """Raise if a trainer generates text in what is run twice, where the second pass would see other text.

    Raises:
        UserError: it does.
    """
    for owner in kind.__mro__[: kind.__mro__.index(Trainer)] if Trainer in kind.__mro__ else ():
        for method in ("training_step", "compute_loss"):
            code = getattr(unwrap(vars(owner).get(method, str)), "__code__", None)
            if code and any(name.lstrip("_").startswith("generate") for name in code.co_names):
                raise UserError(
                    f"{owner.__name__}.{method} generates text, and a second pass would generate other text,"
                    " but the replay must be of the same batch. Trainers that generate in _prepare_inputs can"
                    " be made sharpness-aware, as TRL's GRPOTrainer and RLOOTrainer"
                )


class EvaluateMerge(TrainerCallback):  # type: ignore[misc]
    """Merges the current weights with other checkpoints every few steps, and has the Trainer evaluate them.

    Give it to a trainer that there is: `trainer.add_callback(EvaluateMerge(trainer, ...))`. The training goes
    on as if it had not been: weights, buffers, modes and random numbers are put back. Of a peft model the
    active adapter is merged.

    Args:
        trainer: that trains, with an `eval_dataset`.
        base: that all were fine-tuned from: a folder, or a model in memory.
        others: the other models, as {task: folder or model}.
        method: name of a merge method; the model that is trained comes first in the sum.
        every: steps of the optimizer between two merges, at least 1.
        prefix: of what `trainer.evaluate` logs.
        **options: further keys of a merge file, such as `parameters`, `scaling`, `exclude`.

    Raises:
        UserError: with all that is wrong with the merge, or the trainer has nothing to evaluate it on.

    Source: as TRL's `MergeModelCallback`. Differs: any method, no file, and the merge is evaluated.
    """

    def __init__(
        self,
        trainer: Trainer,
        base: Model,
        others: Mapping[str, Model],
        method: str,
        *,
        every: int = 500,
        prefix: str = "eval_merged",
        **options: Any,
    ) -> None:
        self.trainer, self.every, self.prefix = trainer, counted("every", every), prefix
        self.merge = MergeWith(base, others, method, options)
        self.merge.check(self._model())
        if trainer.eval_dataset is None and type(trainer).get_eval_dataloader is Trainer.get_eval_dataloader:
            raise UserError(
                "trainer: has no eval_dataset, on which the merge is to be evaluated; give it one"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Merge and evaluate, after every so many steps."""
        if state.global_step % self.every == 0:
            asked = control.should_evaluate, control.should_log  # which `evaluate` takes for done
            optimizer = self.trainer.optimizer
            with self.merge.in_place_of(self._model(), [] if optimizer is None else [optimizer]):
                self.trainer.evaluate(metric_key_prefix=self.prefix)
            control.should_evaluate, control.should_log = asked

    def _model(self) -> nn.Module:
        model: nn.Module = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return model
