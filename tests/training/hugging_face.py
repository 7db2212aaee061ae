"""A training of ours by the Hugging Face Trainer, on the same batches."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from torch.utils.data import SequentialSampler

from saft import tasks
from saft.tasks import Batch, Limits
from saft.train import TrainConfig, TrainResult


class _Recorded(transformers.Trainer):
    """Takes the examples as they come, and keeps each step's loss."""

    losses: list[float]

    def _get_train_sampler(self, *_: Any) -> Any:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(*arguments, **options)
        self.losses.append(float(loss.detach()))
        return loss


def train_by_trainer(
    model: Any,
    settings: TrainConfig,
    given: Callable[[Batch], dict[str, Tensor]],
    folder: Path,
    parts: int = 1,
) -> list[float]:
    """Train a model of transformers in place, and return the loss of each step.

    Args:
        model: what the settings' model is in transformers.
        settings: of our training, without a warm-up, which begins at another rate.
        given: what transformers takes of a batch, with its labels.
        folder: to work in.
        parts: how many micro-batches a batch is accumulated from, by a model that counts the tokens of all.
    """
    options = settings.training
    task = tasks.build("", settings.task, "task").bind(settings.name, settings.model, "t")
    examples = task.examples(Limits()).train
    order = examples.training_order(options.batch_size, options.steps, settings.seed)

    def collate(drawn: list[tuple[int, int]]) -> dict[str, Tensor]:
        return given(examples.training_batch([index for _, index in drawn], drawn[0][0], settings.seed))

    trainer = _Recorded(
        model,
        transformers.TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=options.batch_size // parts,
            gradient_accumulation_steps=parts,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            adam_beta2=options.betas[1],
            max_grad_norm=options.gradient_clip,
            lr_scheduler_type=options.schedule,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        train_dataset=[(step, index) for step, indices in enumerate(order) for index in indices],
        data_collator=collate,
    )
    trainer.losses = []
    trainer.train()
    losses = iter(trainer.losses)
    return [sum(own) for own in zip(*[losses] * parts, strict=True)]


def losses_of(result: TrainResult) -> list[float]:
    """Return the loss of each step of a training of ours that logs every one."""
    with (result.folder / "logs" / "metrics.csv").open() as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]
