"""`saft train`: fine-tune on one task -> one checkpoint folder."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

import saft
from saft import config as configs
from saft import tasks
from saft.callbacks import SaveEvery, SelectSteps, ShowProgress, StopOnNonFinite
from saft.errors import UserError, did_you_mean
from saft.evaluate import score
from saft.files.checkpoint import (
    copy_side_files,
    read_card,
    read_manifest,
    staged,
    weight_files,
    write_card,
    write_manifest,
    write_tensors,
)
from saft.files.fingerprints import fingerprint
from saft.files.locations import folder as local_folder
from saft.files.locations import is_hub_id
from saft.models import Classifier, ModelConfig, load_tokenizer, load_trunk
from saft.module import TaskModule, TrainingOptions
from saft.progress import Bar, bar
from saft.tasks import Limits, Splits, Task, heads

__all__ = ["TrainConfig", "TrainResult", "train", "training_cost", "versions"]

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}
OWNED_BY_SAFT = {
    "accumulate_grad_batches": "use training.micro_batch_size",
    "callbacks": "",
    "default_root_dir": "it lies beside `out`",
    "enable_checkpointing": "use checkpoint_every",
    "gradient_clip_val": "use training.gradient_clip",
    "logger": "CSV always; use tensorboard: true for TensorBoard",
    "max_epochs": "use training.steps",
    "max_steps": "use training.steps",
    "use_distributed_sampler": "",
}


@dataclass(frozen=True)
class TrainConfig:
    """What `saft train` needs."""

    model: ModelConfig
    """The pretrained model."""
    task: dict[str, Any]
    """The task: `kind` and the keys of that kind; see saft/tasks."""
    out: str
    """The checkpoint folder to write."""
    name: str = "task"
    """The task's name: heads/NAME.safetensors, and what merging and reports call it."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """How to fine-tune."""
    seed: int = 0
    """Draws the training examples, their order, and dropout."""
    train_examples: int | None = None
    """Use this many training examples; null uses all."""
    validation_examples: int | None = None
    """Use at most this many validation examples; null uses all."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.Trainer: accelerator, devices, strategy, precision ..."""
    tensorboard: bool = False
    """Log for TensorBoard as well as to CSV; needs the extra merge-saft[tensorboard]."""
    checkpoint_every: int = 200
    """Steps between the checkpoints that an interrupted run resumes from; 0 writes none."""

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(L.Trainer.__init__).parameters)[1:]
        for key in self.trainer:
            if key in OWNED_BY_SAFT:
                raise ValueError(f"trainer.{key}: is set by saft; {OWNED_BY_SAFT[key] or 'leave it out'}")
            if key not in parameters:
                raise ValueError(f"trainer.{key}: unknown argument{did_you_mean(key, parameters)}")
        if str(self.trainer.get("precision", "")).startswith("16"):
            raise ValueError("trainer.precision: float16 is not supported here; use bf16-mixed or 32-true")


@dataclass(frozen=True)
class TrainResult:
    """What came out of one fine-tuning.

    Args:
        folder: the checkpoint folder.
        validation: the metric on the validation split, a fraction.
        steps: the optimizer steps of the weights that were kept.
    """

    folder: Path
    validation: float
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.folder}: validation {100 * self.validation:.1f} % after {self.steps} steps;"
            f" next: saft evaluate --checkpoints='[{self.folder}]'"
        )

    @classmethod
    def read(cls, folder: Path) -> TrainResult:
        """Return the result that a checkpoint folder remembers."""
        metrics = read_manifest(folder)["metrics"]
        return cls(folder, metrics["validation"], metrics["steps"])


def train(
    config: TrainConfig,
    overwrite: bool = False,
    splits: Splits | None = None,
    progress: Bar | None = None,
) -> TrainResult:
    """Fine-tune the model on one task, and write the checkpoint folder.

    An interrupted training goes on from its last intermediate checkpoint when it is called again with the
    same config, and ends with the same weights.

    Args:
        config: see `TrainConfig`.
        overwrite: replace what is in `config.out`.
        splits: the task's data, if it is loaded already.
        progress: a bar to advance, by `training_cost` in all; None shows one of its own.

    Returns:
        The folder, the validation figure and the number of steps.

    Raises:
        UserError: something in the config does not fit, the target is not empty, or training diverged.
    """
    out = Path(config.out)
    if out.exists() and not overwrite and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another `out`, or replace it with --overwrite")
    task = tasks.build(config.name, config.task, "task")
    tokenizer = load_tokenizer(config.model)
    if splits is None:
        limits = Limits(config.train_examples, config.validation_examples, test=0, seed=config.seed)
        splits = task.load(tokenizer, limits, "task")
    classifier = Classifier(load_trunk(config.model), nn.Identity(), config.model.pooling)
    classifier.head = task.head_for(classifier, tokenizer)

    with bar(total=training_cost(config.training)) if progress is None else nullcontext(progress) as shown:
        if progress is None:
            shown.stage(f"train {config.name}")
        steps = _fit(classifier, task, splits, config, shown)
    result = TrainResult(out, score(classifier, task, splits.validation), steps)
    _write(classifier, config, result, splits, overwrite)
    shutil.rmtree(_work_folder(out), ignore_errors=True)
    return result


def training_cost(options: TrainingOptions) -> float:
    """Return the cost of a training, the unit in which `train` advances its bar: examples passed forward."""
    passes = 1 if options.perturbation is None else 2
    return 3.0 * options.steps * passes * options.batch_size  # a backward pass costs about two forward ones


def _fit(classifier: Classifier, task: Task, splits: Splits, config: TrainConfig, progress: Bar) -> int:
    """Train the classifier in place and return the number of steps of the weights that it holds."""
    options = config.training
    work = _work_folder(Path(config.out))
    _clear_if_changed(work, config)
    module = TaskModule(classifier, task, splits.train, options, config.seed).train()
    # Dropout must not depend on what ran before this call, nor change what runs after it.
    with torch.random.fork_rng(), _quiet_lightning():
        torch.manual_seed(config.seed)
        select = SelectSteps(
            options.select_steps,
            lambda: score(classifier, task, splits.validation),
            work / "best.safetensors",
        )
        callbacks: list[L.Callback] = [
            select,
            StopOnNonFinite(),
            ShowProgress(progress, training_cost(options) / options.steps),
            SaveEvery(config.checkpoint_every, work / "last.ckpt"),
        ]
        trainer = L.Trainer(
            max_steps=options.steps,
            logger=_loggers(work, config.tensorboard),
            callbacks=callbacks,
            default_root_dir=work,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            **(TRAINER_DEFAULTS | {"log_every_n_steps": min(10, options.steps)} | config.trainer),
        )
        unfinished = work / "last.ckpt"
        with _interruptible():
            trainer.fit(module, ckpt_path=unfinished if unfinished.exists() else None, weights_only=False)
        if options.select_steps:
            select.restore_best(module)
            return select.best
    return options.steps


def _write(
    classifier: Classifier, config: TrainConfig, result: TrainResult, splits: Splits, overwrite: bool
) -> None:
    base = local_folder(config.model.path, "model.path")
    settings = dataclasses.asdict(config)
    del settings["out"]  # a folder may be moved; what is written in it stays true
    with staged(Path(config.out), overwrite) as folder:
        copy_side_files(base, folder)
        write_tensors(folder / "model.safetensors", classifier.trunk.state_dict())
        heads.save(classifier.head, folder, config.name)
        logs = _work_folder(Path(config.out)) / "logs"
        if logs.is_dir():
            shutil.copytree(logs, folder / "logs")
        write_manifest(
            folder,
            {
                "kind": "fine-tuned",
                "config": settings,
                "tasks": {config.name: config.task},
                "pooling": config.model.pooling,
                "base": {
                    "location": config.model.path,
                    "sha256": {file.name: fingerprint(file) for file in weight_files(base)},
                },
                "metrics": {"validation": result.validation, "steps": result.steps},
                "examples": {"train": len(splits.train), "validation": len(splits.validation)},
                "versions": versions(),
            },
        )
        perturbation = config.training.perturbation
        write_card(
            folder,
            f"{config.model.path} fine-tuned on {config.name}",
            f"""Fine-tuned with saft for merging: {result.steps} steps of
{"AdamW" if perturbation is None else f"AdamW with the ascent step {perturbation}"}, seed {config.seed}.
Validation: {100 * result.validation:.1f} % on {len(splits.validation)} examples held out from training.

The weights are the trunk alone; the task's head is in `heads/{config.name}.safetensors`. The whole
configuration, and the fingerprints of what went in, are in `saft.json`.""",
            base_model=_base_model_ids(config.model.path, base),
            relation="finetune",
            tags=["saft", *([] if perturbation is None else [str(perturbation["name"])])],
        )


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    from importlib.metadata import version

    others = {name: version(name) for name in ("torch", "lightning", "transformers", "datasets")}
    return {"saft": saft.__version__, **others}


def _base_model_ids(location: str, folder: Path) -> list[str]:
    """Return the hub id of the base: as given, or as the folder's own card names it."""
    if is_hub_id(location):
        return [location]
    declared = read_card(folder).get("base_model", [])
    return [declared] if isinstance(declared, str) else list(declared)


def _work_folder(out: Path) -> Path:
    """Return the folder beside the target that holds logs and intermediate checkpoints while training."""
    return out.parent / f".{out.name}.work"


def _clear_if_changed(work: Path, config: TrainConfig) -> None:
    """Make the work folder; begin anew if what lies there comes from another config."""
    settings = configs.dump(config)
    file = work / "config.yaml"
    if work.exists() and not (file.is_file() and file.read_text("utf-8") == settings):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(settings, encoding="utf-8")


def _loggers(work: Path, tensorboard: bool) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(work, name="logs", version="")]
    if tensorboard:
        try:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(work, name="logs", version=""))
        except ModuleNotFoundError:
            raise UserError("tensorboard: is not installed; pip install tensorboard") from None
    return loggers


@contextmanager
def _interruptible() -> Iterator[None]:
    """Give an interrupt back to the caller: Lightning turns it into an exit and ignores all that follow."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from ended


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says at every start: with a dozen experts a run, nobody would find the rest."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # The last is Lightning 2.6's own, about torch 2.13's pytree.
        for pattern in (".*many workers.*", ".*exists and is not empty.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", pattern)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
