"""Who trains in the benchmark of trainings: a bare torch loop, the Hugging Face Trainer, and saft.

All learn from the same batches, in the same order, made by the same function in as many processes; all begin
with the same weights, and clip the gradient to a norm of 1. So all with AdamW have the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from train_models import is_mixed

from saft.progress import Bar
from saft.tasks import Batch, BoundTask, Splits, TaskModel
from saft.train import TrainConfig
from saft.training.fine_tuning import fine_tune

__all__ = ["ASKED", "COMPETITORS", "PLAIN", "Competitor", "Train"]

Train = Callable[[BoundTask, Splits, TrainConfig], None]
Example = tuple[int, int]
"""The number of a step, and the index of an example that it learns from."""


class WithLoss(nn.Module):
    """A task's model as the Hugging Face Trainer calls it."""

    accepts_loss_kwargs = False  # else the Trainer would hand over the number of targets among the inputs

    def __init__(self, model: TaskModel, task: BoundTask) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        return {"loss": self.task.loss(self.model, Batch(inputs, labels))}


def examples(splits: Splits, settings: TrainConfig) -> tuple[list[Example], Callable[[list[Example]], Batch]]:
    """Return the examples of every step, one after the other, and what makes a batch of those of a step."""
    options = settings.training
    order = splits.train.training_order(options.batch_size, options.steps, settings.seed)

    def collate(chosen: list[Example]) -> Batch:
        return splits.train.training_batch([index for _, index in chosen], chosen[0][0], settings.seed)

    return [(step, index) for step, batch in enumerate(order) for index in batch], collate


def model_of(task: BoundTask, settings: TrainConfig) -> TaskModel:
    """Return the model to train, with peft's factors where there are to be some; the same at every call."""
    model = task.model(task.load_trunk())
    if lora := dict(settings.training.parametrization or {}):
        import peft

        torch.manual_seed(settings.seed)
        factors = peft.LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], lora_dropout=0.0
        )
        peft.get_peft_model(model.trunk, factors)  # in place; the rest is frozen
    return model.train()


def with_loop(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train as one would write it by hand."""
    options, model = settings.training, model_of(task, settings)
    chosen, collate = examples(splits, settings)
    loader = DataLoader(
        chosen,  # type: ignore[arg-type]  # a list will do
        batch_size=options.batch_size,
        collate_fn=collate,
        num_workers=settings.data_workers or 0,
        pin_memory=task.device.type == "cuda",
    )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0, fused=True)
    for batch in loader:
        with torch.autocast(task.device.type, torch.bfloat16, enabled=is_mixed(settings)):
            loss = task.loss(model, batch.to(task.device))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def with_trainer(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train with the Hugging Face Trainer."""
    import transformers

    class Trainer(transformers.Trainer):
        """Takes the examples in their order."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(chosen)

    options, on_gpu = settings.training, task.device.type == "cuda"
    chosen, collate = examples(splits, settings)

    def collate_for_trainer(rows: list[Example]) -> dict[str, Tensor]:
        batch = collate(rows)
        return {**batch.inputs, "labels": batch.labels}

    arguments = transformers.TrainingArguments(
        output_dir=settings.out, max_steps=options.steps, seed=settings.seed,
        learning_rate=options.learning_rate, lr_scheduler_type="constant", weight_decay=0.0,
        per_device_train_batch_size=options.batch_size, optim="adamw_torch_fused", bf16=is_mixed(settings),
        use_cpu=not on_gpu, save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
        dataloader_num_workers=settings.data_workers or 0, dataloader_pin_memory=on_gpu,
        logging_strategy="no",
    )  # fmt: skip
    model = WithLoss(model_of(task, settings), task)
    trainer = Trainer(model, arguments, data_collator=collate_for_trainer, train_dataset=chosen)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def with_saft(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train with saft, which binds the task by itself."""
    fine_tune(settings, overwrite=True, splits=splits, progress=Bar(1.0))


@dataclass(frozen=True)
class Competitor:
    """Who trains, and how.

    Args:
        label: for people.
        train: one training.
        training: what saft's options of a training differ in.
    """

    label: str
    train: Train
    training: Mapping[str, Any] = field(default_factory=dict)


def _perturbed(label: str, name: str) -> Competitor:
    return Competitor(f"saft train, {label}", with_saft, {"perturbation": {"name": name}})


COMPETITORS = {
    "loop": Competitor("torch loop, AdamW", with_loop),
    "trainer": Competitor("Hugging Face Trainer, AdamW", with_trainer),
    "adamw": Competitor("saft train, AdamW", with_saft),
    "sam": _perturbed("sam (two passes)", "sam"),
    "momentum_sam": _perturbed("momentum_sam", "momentum_sam"),
    "sampled_shift": _perturbed("sampled_shift", "sampled_shift"),
    "smat": _perturbed("smat", "smat"),
    "recomputed": Competitor(
        "saft train, AdamW, gradient_checkpointing", with_saft, {"gradient_checkpointing": True}
    ),
    "compiled": Competitor("saft train, AdamW, compile", with_saft, {"compile": True}),
}
ASKED = ("recomputed", "compiled")
"""Those that train only if they are asked for."""

PLAIN = ("loop", "trainer", "adamw", "recomputed")
"""Those that compute the same: AdamW without a perturbation."""
