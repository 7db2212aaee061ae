"""Where the log of a training goes beside its CSV file, by Lightning's loggers: TensorBoard, W&B, MLflow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from saft.errors import UserError
from saft.extras import require

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from saft.training.train_config import TrainConfig

__all__ = ["LoggerName", "check_logger", "loggers"]

LoggerName: TypeAlias = Literal["wandb", "mlflow", "tensorboard"]

PROJECT = "saft"  # where the environment names no other
_CURES = {
    "wandb": "log in by `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "MLFLOW_TRACKING_URI says where its server or folder is",
    "tensorboard": "leave `logger` out",
}


def check_logger(name: LoggerName | None) -> None:
    """Check that what a logger needs is installed, without importing it.

    Args:
        name: of the logger; None has only the CSV file.

    Raises:
        UserError: it is not installed.

    Example:
        >>> check_logger(None)
    """
    if name is not None:
        require(name, "logger")


@contextmanager
def loggers(config: TrainConfig, work: Path) -> Iterator[list[Logger]]:
    """Open what writes the log of a training, and close it at the end.

    A run of Weights & Biases or MLflow is called as the folder that is trained, `out`; its project is the one
    that WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names, or else `saft`.

    Args:
        config: of the training.
        work: the folder in which `logs` is made.

    Yields:
        The loggers of Lightning: that of the CSV file, and the one that the config names.

    Raises:
        UserError: it is not installed, or its service cannot be used.
    """
    from lightning.pytorch.loggers import CSVLogger

    always = CSVLogger(work, name="logs", version="")
    if config.logger is None:
        yield [always]
        return
    check_logger(config.logger)
    try:
        further = _MAKERS[config.logger](config, work)
        run: Any = getattr(further, "experiment")  # noqa: B009 - it is made when it is asked for
        further.log_hyperparams(_hyperparameters(config))
    except Exception as error:  # each service has errors of its own
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"logger: {config.logger}: {told}; {_CURES[config.logger]}") from None
    try:
        yield [always, further]
    finally:
        if config.logger == "wandb":  # else the next training of this process would go on with this run
            run.finish()


def _hyperparameters(config: TrainConfig) -> dict[str, Any]:
    """Return what distinguishes a training from others: its task, its seed and its options."""
    return {"task": config.name, "seed": config.seed, **dataclasses.asdict(config.training)}


def _wandb(config: TrainConfig, work: Path) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    quiet = wandb.Settings(silent=True, console="off")
    return WandbLogger(config.out, project=os.environ.get("WANDB_PROJECT", PROJECT), settings=quiet)


def _mlflow(config: TrainConfig, work: Path) -> Logger:
    import mlflow
    from lightning.pytorch.loggers import MLFlowLogger

    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLFlowLogger(project, config.out, tracking_uri=mlflow.get_tracking_uri())


def _tensorboard(config: TrainConfig, work: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(work, name="logs", version="")


_MAKERS: Mapping[str, Callable[[TrainConfig, Path], Logger]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
