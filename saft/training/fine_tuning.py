"""Fine-tuning from config to checkpoint folder: check, load, fit, score, write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from saft import config as configs
from saft import tasks
from saft.errors import UserError, collecting
from saft.files.lock import beside, locked
from saft.files.staging import refuse
from saft.files.upload import uploading
from saft.parametrizations.parametrization import trained_shapes
from saft.penalties import Setting, Unlabelled, penalty
from saft.progress import Bar, bar
from saft.tasks import BoundTask, Limits, Score, Splits, Task, TaskModel
from saft.training.callbacks import (
    AverageWeights,
    LogSteps,
    SaveEvery,
    SelectSteps,
    ShowProgress,
    StopOnNonFinite,
    Stopwatch,
)
from saft.training.data_parallel import Replicas
from saft.training.execution import executed
from saft.training.loggers import loggers
from saft.training.module import TaskModule
from saft.training.options import TrainingOptions
from saft.training.other_experts import sum_of_task_vectors
from saft.training.peak_memory import PeakMemory
from saft.training.precision import computing
from saft.training.ranks import Order, launch
from saft.training.train_config import TrainConfig
from saft.training.train_result import LOSSES, TrainResult, inputs, write
from saft.training.trainer import (
    device_count,
    device_of,
    interruptible,
    make_trainer,
    quiet_lightning,
)
from saft.training.trainer_arguments import is_sharded
from saft.training.work_folder import LAST, work_folder
from saft.trajectory import RunningAverage, averaging

__all__ = ["fine_tune", "train_rank", "training_cost"]

# What may change when it goes on, since the weights are the same: where it is told, and how batches are made.
UNESSENTIAL = ("upload", "logger", "checkpoint_every", "data_workers")
DEVICES = ("devices", "strategy")  # of the trainer; the weights are the same to round-off


def fine_tune(
    config: TrainConfig,
    overwrite: bool = False,
    splits: Splits | None = None,
    progress: Bar | None = None,
    reference: Mapping[str, Unlabelled] | None = None,
    cache: Path | None = None,
) -> TrainResult:
    """Fine-tune the model on one task, and write the checkpoint folder.

    An interrupted training goes on from its last intermediate checkpoint when it is called again with the
    same config, model and data, and ends with the same weights. Keys that leave these as they are may change:
    upload, logger, checkpoint_every and data_workers; and so may trainer.devices and trainer.strategy, which
    leave them the same to round-off, but for dropout: each device draws masks of its own.

    Args:
        config: see `TrainConfig`.
        overwrite: replace what is in `config.out`.
        splits: the task's data, if it is loaded already.
        progress: a bar to advance, by `training_cost` in all; None shows one of its own.
        reference: training inputs of the tasks under `config.reference`, if they are loaded already.
        cache: folder where what a penalty computes at the base is kept for other trainings.

    Returns:
        The folder, the validation score and the number of steps.

    Raises:
        UserError: something in the config does not fit, the target is not empty, another process trains into
            it, the hub refuses the upload, or training diverged; of that nothing is left to go on from.
    """
    out = Path(config.out)
    refuse(out, overwrite)
    count = device_count(config.trainer)
    ready = _ready(config, device_of(config.trainer), splits, reference, cache)
    _refuse_batch(config, len(ready.splits.train), count)
    with locked(beside(out), f"out: {out}"), uploading(out, config.upload):
        refuse(out, overwrite)  # another may have written it while the data were read
        rests_on = {key: value for key, value in vars(config).items() if key not in UNESSENTIAL}
        rests_on["trainer"] = {key: value for key, value in config.trainer.items() if key not in DEVICES}
        basis = configs.dump(rests_on) + json.dumps(inputs(ready.declared, config), indent=1) + "\n"
        with (
            work_folder(out, basis) as work,
            bar(total=training_cost(config.training)) if progress is None else nullcontext(progress) as shown,
        ):
            if progress is None:
                shown.stage(f"train {config.name}")
            order = Order(config, overwrite, work, cache)
            result = None if count > 1 else _train(ready, order, shown)
            if result is None:
                launch(order, count, shown)
    return result or TrainResult.read(out)


def train_rank(order: Order, progress: Bar) -> None:
    """Train as one of several processes; the first writes the checkpoint folder.

    Args:
        order: as all of them have it.
        progress: a bar to advance.

    Raises:
        UserError: training diverged.
    """
    ready = _ready(order.config, device_of(order.config.trainer), None, None, order.cache)
    kind: type[Replicas] = Replicas
    if is_sharded(order.config.trainer):
        from saft.training.sharding import Shards

        kind = Shards
    _train(ready, order, progress, kind(cluster_environment=LightningEnvironment()))


@dataclass(frozen=True)
class _Ready:
    """What a training begins with."""

    declared: Task
    task: BoundTask
    splits: Splits
    setting: Setting
    device: torch.device


def _ready(
    config: TrainConfig, device: torch.device, splits: Splits | None,
    reference: Mapping[str, Unlabelled] | None, cache: Path | None,
) -> _Ready:  # fmt: skip
    """Bind the task and read the data."""
    declared = tasks.build("", config.task, "task")
    task = declared.bind(config.name, config.model, "task", device)
    _check_penalty(config, task)
    if splits is None:
        limits = Limits(config.train_examples, config.validation_examples, test=0, seed=config.seed)
        splits = task.examples(limits)
    if reference is None:
        reference = _reference(config, device)
    inputs = Unlabelled.of(task, splits.train)
    setting = Setting(inputs, reference, config.seed, config.training.steps, cache)
    return _Ready(declared, task, splits, setting, device)


def _check_penalty(config: TrainConfig, task: BoundTask) -> None:
    if config.training.penalty is not None:
        penalty(**config.training.penalty).check_tasks({task.name: task}, "training.penalty")


def _refuse_batch(config: TrainConfig, examples: int, devices: int) -> None:
    """Refuse a batch that is larger than the training split, or that the devices cannot share equally."""
    size = config.training.batch_size
    if size > examples:
        raise UserError(
            f"training.batch_size: is {size}, but there are {examples} "
            f"training examples of {config.name}; a batch holds none of them twice"
        )
    if size % devices:
        near = max(1, round(size / devices)) * devices
        raise UserError(
            f"training.batch_size: is {size}, which {devices} devices cannot share equally; write {near}"
        )


def _train(
    ready: _Ready, order: Order, progress: Bar, strategy: Replicas | None = None
) -> TrainResult | None:
    """Load, fit, score, and write the checkpoint folder, in the first of the processes."""
    config, task, splits = order.config, ready.task, ready.splits
    trunk = task.load_trunk()
    vectors = sum_of_task_vectors(task, trunk, config.others) if config.others else None
    model = task.model(trunk, head_from=config.head_from)
    steps, cost, validation = _fit(model, ready, order, progress, strategy, vectors)
    if validation is None:
        return None
    result = TrainResult(Path(config.out), validation, task.metric, steps, device=str(ready.device), **cost)
    read = inputs(ready.declared, config)
    write(model, task, config, result, splits, read, order.work / "logs", order.overwrite)
    return result


def training_cost(options: TrainingOptions) -> float:
    """Return the cost of a training, in the unit of `fine_tune`'s bar: examples passed forward."""
    return 3.0 * options.passes * options.batch_size  # a backward pass costs about two forward ones


def _reference(config: TrainConfig, device: torch.device) -> dict[str, Unlabelled]:
    """Load the training inputs that the penalty reads, and no others."""
    if config.training.reads is None:
        return {}
    limits = Limits(config.train_examples, validation=0, test=0, seed=config.seed)
    references = {}
    problems: list[str] = []
    for name, mapping in config.reference.items():
        with collecting(problems):
            declared = tasks.build(name, mapping, "reference")
            task = declared.bind(name, config.model, f"reference.{name}", device)
            _check_penalty(config, task)
            references[name] = Unlabelled.of(task, task.examples(limits).train)
    if problems:
        raise UserError(*problems)
    return references


def _fit(
    model: TaskModel, ready: _Ready, order: Order, progress: Bar, strategy: Replicas | None,
    vectors: Mapping[str, Tensor] | None,
) -> tuple[int, dict[str, Any], Score | None]:  # fmt: skip
    """Train the model in place.

    Returns:
        The steps of the weights that it holds, its seconds and memory by name, and its validation score; None
        but for the first process.
    """
    config, work, task, splits = order.config, order.work, ready.task, ready.splits
    options = config.training
    # What is drawn must not depend on what ran before this call, nor change what runs after it.
    with torch.random.fork_rng(), quiet_lightning(), loggers(config, work) as logs:
        torch.manual_seed(config.seed)
        workers = _workers(config, splits, ready.device)
        module = TaskModule(model, task, splits.train, options, config.seed, workers, vectors).train()
        options.check_optimizer(trained_shapes(model))

        def score() -> Score:
            with computing(config.trainer.get("precision"), ready.device):
                return task.score(model, splits.validation)

        best = work / "best.safetensors"
        select = SelectSteps(options.select_steps, lambda: score().value, task.metric, best)
        watch, memory = Stopwatch(), PeakMemory()
        average = None
        if options.averaging is not None:
            average = RunningAverage(averaging(**options.averaging), options.steps)
        callbacks: list[L.Callback] = [
            *([] if average is None else [AverageWeights(average)]),
            select,
            StopOnNonFinite(),
            ShowProgress(progress, training_cost(options) / options.steps),
            watch,
            memory,
            LogSteps(work / LOSSES),
            SaveEvery(config.checkpoint_every, work / LAST),
        ]
        own: dict[str, Any] = {
            "max_steps": options.steps,
            "logger": logs,
            "callbacks": callbacks,
            "default_root_dir": work,
        }
        every = {"log_every_n_steps": min(10, options.steps)}
        own |= {"strategy": "auto" if strategy is None else strategy}
        trainer = make_trainer(every | config.trainer, **own)
        with trainer.precision_plugin.forward_context(), watch.at_base():
            module.bind_penalty(ready.setting)
        unfinished = work / LAST
        with interruptible(), executed(model.trunk, options):
            trainer.fit(module, ckpt_path=unfinished if unfinished.exists() else None, weights_only=False)
        if average is not None:
            average.put_into(module)
        if strategy is None or not is_sharded(config.trainer):
            model.to(ready.device)  # Lightning leaves it on the CPU, but for shares
        if options.select_steps:
            select.restore_best(trainer)
    validation = score() if strategy is None else strategy.finish(score)
    cost = {"seconds": watch.seconds, "memory": memory.bytes}
    return select.best if options.select_steps else options.steps, cost, validation


def _workers(config: TrainConfig, splits: Splits, device: torch.device) -> int:
    """Return how many processes make batches: no more than there are cores."""
    cores, wanted = os.cpu_count() or 1, config.data_workers
    if wanted is None:
        wanted = min(4, cores - 1) if splits.train.is_costly and device.type == "cuda" else 0
    return min(wanted, cores)
