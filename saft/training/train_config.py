"""What `saft train` is given: the model, the task, how it trains, and where the checkpoint goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saft import config
from saft.config import Count, CountOrZero, Name, Repository, Seed, Target
from saft.errors import UserError, collecting
from saft.model_config import ModelConfig
from saft.training.loggers import LoggerName, check_logger
from saft.training.options import TrainingOptions
from saft.training.trainer_arguments import check_sharded, check_trainer

__all__ = ["TrainConfig"]


@config.checked
@dataclass(frozen=True)
class TrainConfig:
    """What `saft train` needs.

    Example:
        >>> task = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}
        >>> config = TrainConfig(ModelConfig("base"), task, out="runs/news")
        >>> config.training.learning_rate
        1e-05
    """

    model: ModelConfig
    """The pretrained model."""
    task: dict[str, Any]
    """The task: `kind` and the keys of that kind; see saft/tasks."""
    out: Target
    """The checkpoint folder to write."""
    name: Name = "task"
    """The task's name: heads/NAME.safetensors, and what merging and reports call it."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """How to fine-tune."""
    seed: Seed = 0
    """Draws the training examples, their order, and dropout."""
    train_examples: Count | None = None
    """Use this many training examples; null uses all."""
    validation_examples: Count | None = None
    """Use at most this many validation examples; null uses all."""
    reference: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Tasks, as under `task`, whose training inputs a penalty reads, unlabelled; `train_examples` of each."""
    others: list[str] = field(default_factory=list)
    """Other tasks' experts, fine-tuned from the same model, for perturbation: {name: task_vectors}, and for
    {name: sam, rho: others}."""
    head_from: str | None = None
    """Checkpoint folder whose head of this task the training goes on with; null takes the head that the task
    starts with, made from the model."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.Trainer: accelerator, precision (of the steps and of evaluation;
    bf16-mixed where a GPU has bfloat16, else 32-true), devices (of this machine, which share every batch;
    strategy: ddp, each with the whole model, or fsdp, each with a share of a language model's weights) ..."""
    data_workers: CountOrZero | None = None
    """Processes that make the batches ahead, at most one a core; 0 makes each when it is needed; null is 4
    for images that are trained on a GPU, and else 0. The batches are the same."""
    logger: LoggerName | None = None
    """Where the log goes beside its CSV file; null is nowhere. Each needs an extra: merge-saft[wandb],
    merge-saft[mlflow] or merge-saft[tensorboard]."""
    upload: Repository | None = None
    """Repository of the hub that the folder is uploaded to when it is complete, OWNER/NAME; one that is not
    there is made, private. Whether that is allowed is asked before the training."""
    checkpoint_every: CountOrZero = 200
    """Steps between the checkpoints that an interrupted run resumes from; 0 writes none."""

    def __post_init__(self) -> None:
        check_trainer(self.trainer)

    def check_options(self) -> None:
        """Check what the kinds of tasks and the penalties know.

        Raises:
            UserError: a task has no such key, the penalty reads tasks that are not listed, or the logger is
                not installed.
        """
        from saft import tasks

        problems: list[str] = []
        with collecting(problems):
            check_logger(self.logger)
        with collecting(problems):
            tasks.build("", self.task, "task")
        with collecting(problems):
            tasks.check_keys(self.reference, "reference")
        if problems:
            raise UserError(*problems)
        check_sharded(self.trainer, [("training", self.training)], {"task": self.task["kind"]})
        if self.training.first_round is not None:
            raise ValueError(
                "training.first_round: is for an arm of `saft run`; train all tasks, and list the others' "
                "folders under `others`, or merge them into the `model` of this training"
            )
        if self.training.needs_vectors and not self.others:
            asking = self.training.asking
            count = ", or say how many tasks there will be: tasks: 8" if asking == "rho: others" else ""
            raise ValueError(
                f"others: is missing: training.perturbation is {asking}; list the checkpoints of other "
                f"tasks that this one is to be merged with{count}"
            )
        if self.others and not self.training.needs_vectors:
            raise ValueError(
                "others: is only read by training.perturbation: {name: task_vectors}, and by rho: others "
                "without tasks; leave it out"
            )
        if self.training.reads is not None and not self.reference:
            raise ValueError(
                f"reference: is missing: training.penalty has inputs: {self.training.reads}; list the tasks"
                " whose training inputs it is to read, each as under `task`"
            )

    def late_check(self) -> None:
        """Check that the optimizer takes the head of the task, if it is trained.

        Raises:
            UserError: it does not.
        """
        from saft import tasks

        problems: list[str] = []
        with collecting(problems, "training."):
            self.training.check_optimizer(tasks.trained_heads({"": self.task}, "task"))
        if problems:
            raise UserError(*problems)
