"""The LightningModule: ascent, replay and descent in one readable method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from saft.errors import UserError
from saft.models import Classifier
from saft.optim import Ascent, perturbation
from saft.tasks import Examples, Task
from saft.tasks.examples import Batch

__all__ = ["TrainingOptions", "TaskModule"]


@dataclass(frozen=True)
class TrainingOptions:
    """How one model is fine-tuned: what an arm of an experiment may change."""

    steps: int = 200
    """Optimizer steps, at least 1. A step is one update, however many passes it takes."""
    select_steps: list[int] = field(default_factory=list)
    """Candidate numbers of steps: train for `steps`, keep the one that validates best (ties: fewest)."""
    batch_size: int = 8
    """Examples per optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Examples per forward pass; null takes the batch at once. Both passes see the whole batch either way."""
    learning_rate: float = 1e-5
    """Of AdamW, at its highest."""
    weight_decay: float = 0.01
    """Of AdamW (decoupled); on matrices alone, not on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """The learning rate after the warm-up: constant, or falling to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float | None = 1.0
    """Largest norm of the descent gradient; null does not clip. The ascent gradient is never clipped."""
    perturbation: dict[str, Any] | None = None
    """The ascent step, for example {name: sam, rho: 0.05}; null is plain AdamW."""

    def __post_init__(self) -> None:
        at_least = {"steps": 1, "batch_size": 1, "micro_batch_size": 1, "warmup_steps": 0, "weight_decay": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, but is {value}")
        if not self.learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0, but is {self.learning_rate}")
        if any(not 1 <= candidate <= self.steps for candidate in self.select_steps):
            raise ValueError(f"select_steps must lie in 1..{self.steps} (steps), but is {self.select_steps}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be above 0 or null, but is {self.gradient_clip}")
        if self.perturbation is not None:
            if "name" not in self.perturbation:
                raise ValueError("perturbation: `name` is missing; write {name: sam, rho: 0.05}")
            try:
                perturbation(**self.perturbation)
            except UserError as error:
                raise ValueError(f"perturbation: {error}") from None

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on `learning_rate` for the step numbered from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return max(0.0, 1.0 - done)
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class TaskModule(L.LightningModule):
    """Fine-tunes a classifier on one task, with or without a perturbation.

    Every random number of a step (dropout) comes from a stream of its own, keyed by `seed` and the step. So
    both passes of a step drop the same units, and a run that is resumed at any step equals one that never
    stopped.

    Args:
        classifier: trunk and head; a frozen head is left alone.
        task: says the loss.
        examples: the training split.
        options: see `TrainingOptions`.
        seed: of the order of the examples and of dropout.
    """

    def __init__(
        self, classifier: Classifier, task: Task, examples: Examples, options: TrainingOptions, seed: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.classifier = classifier
        self.task = task
        self.examples = examples
        self.options = options
        self.seed = seed
        self._ascent_state: dict[str, Any] | None = None

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One update: gradient at w; ascent; gradient at w + epsilon; back to w; clip; descent."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        optimizer.zero_grad()

        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank)
        with self.ascent.first_pass():
            loss = self._backward(batch)
        if self.ascent.replays:
            with self.ascent.perturbed():
                self._backward(batch)
        else:
            self.ascent.skip_replay()

        if self.options.gradient_clip is not None:  # Lightning's own refuses fused optimizers in bf16
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.options.gradient_clip)
        optimizer.step()
        schedule.step()
        self.log("loss", loss, prog_bar=True)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])

    def _backward(self, batch: Batch) -> Tensor:
        """Accumulate the gradient of the batch's mean loss, micro-batch by micro-batch; return that loss."""
        total = torch.zeros((), device=self.device)
        for part in batch.split(self.options.micro_batch_size):
            loss = self.task.loss(self.classifier(part.inputs), part.labels) * (len(part) / len(batch))
            self.manual_backward(loss)
            total += loss.detach()
        return total

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and its schedule, untouched by the ascent, which is over before the optimizer steps."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=self.options.learning_rate,
            betas=self.options.betas,
            weight_decay=self.options.weight_decay,
            fused=True,
        )
        ascent = perturbation(**(self.options.perturbation or {"name": "sam", "rho": 0.0}))
        self.ascent = Ascent(optimizer, ascent, modules=self.classifier)
        schedule = LambdaLR(optimizer, self.options.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a perturbation remembers from step to step."""
        checkpoint["ascent"] = self.ascent.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep it until the optimizer is there."""
        self._ascent_state = checkpoint["ascent"]

    def on_train_start(self) -> None:
        """Take up what an interrupted run's perturbation remembered."""
        if self._ascent_state is not None:
            self.ascent.load_state_dict(self._ascent_state)

    def train_dataloader(self) -> DataLoader[Batch]:
        """One batch per step left, in an order fixed by the seed; each device takes its share of a batch."""
        order = self.examples.training_order(self.options.batch_size, self.options.steps, self.seed)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = _Batches(self.examples, [indices[rank::world] for indices in order])
        return _Resumable(batches, batch_size=None, sampler=_StepsLeft(self.global_step, self.options.steps))


class _Batches(Dataset[Batch]):
    """The batch of every step, made when it is asked for."""

    def __init__(self, examples: Examples, order: list[list[int]]) -> None:
        self.examples = examples
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        return self.examples.collate(self.order[step])


class _Resumable(DataLoader[Batch]):
    """A loader that Lightning may resume in mid-epoch: where it goes on follows from the step alone."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the number of steps taken says it all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: `_StepsLeft` begins at the step that was reached."""


class _StepsLeft(Sampler[int]):
    """The numbers of the steps that are left.

    Its length is the number of all steps: Lightning's loop remembers how many batches of the "epoch" it has
    seen, and compares that with the length.
    """

    def __init__(self, first: int, steps: int) -> None:
        self.first = first
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.steps))
