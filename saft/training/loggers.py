"""Where the log of a training goes beside its CSV file, by Lightning's loggers: TensorBoard, W&B, MLflow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from saft.errors import UserError, first_line
from saft.extras import require
from saft.files.staging import write_text
from saft.progress import note
from saft.signals import hand_on_interrupt

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from saft.training.train_config import TrainConfig

__all__ = ["LoggerName", "check_logger", "loggers"]

LoggerName: TypeAlias = Literal["wandb", "mlflow", "tensorboard"]

PROJECT = "saft"  # where the environment names no other
_CALLED = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
_CURES = {
    "wandb": "log in by `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "MLFLOW_TRACKING_URI says where its server or database is, such as sqlite:///mlflow.db",
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
    that WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names, or else `saft`. A training that goes on writes to the
    run that it had begun. A service that fails meanwhile is told once, and the training goes on.

    Args:
        config: of the training.
        work: the folder in which `logs` is made; which run it is is kept there.

    Yields:
        The loggers of Lightning: the one that the config names, if it names one.

    Raises:
        UserError: it is not installed, or its service cannot be used.
    """
    if config.logger is None:
        yield []
        return
    check_logger(config.logger)
    try:
        further = _MAKERS[config.logger](config, work)
        run: Any = getattr(further, "experiment")  # noqa: B009 - it is made when it is asked for
        further.log_hyperparams(_hyperparameters(config))
        _keep_run(config.logger, work, further.version)
    except Exception as error:  # each service has errors of its own
        cure = _CURES[config.logger]
        raise UserError(f"logger: {config.logger}: {first_line(error)}; {cure}") from None
    forgiving = _Forgiving(config.logger)
    for name in _CALLED:
        setattr(further, name, forgiving.calling(getattr(further, name)))
    try:
        yield [further]
    finally:
        if config.logger == "wandb":  # else the next training of this process would go on with this run
            forgiving.calling(run.finish)()


class _Forgiving:
    """Keeps what a service raises from the training: the CSV file has it all.

    Args:
        service: its name.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._has_failed = False

    def calling(self, function: Callable[..., Any]) -> Callable[..., None]:
        """Return what calls a function, and tells the first failure of all that are called so."""

        def call(*arguments: Any, **keywords: Any) -> None:
            try:
                function(*arguments, **keywords)
            except Exception as error:  # each service has errors of its own
                hand_on_interrupt(error)
                if not self._has_failed:
                    self._has_failed = True
                    note(
                        f"logger: {self._service}: {first_line(error)}; the training goes on, "
                        "logs/metrics.csv has it all"
                    )

        return call


def _kept_run(name: str, work: Path) -> str | None:
    """Return the run that a training has begun which was interrupted; None where it has begun none."""
    file = work / f"{name}-run.txt"
    return file.read_text("utf-8").strip() or None if file.is_file() else None


def _keep_run(name: str, work: Path, run: object) -> None:
    if name != "tensorboard" and isinstance(run, str) and run and run != _kept_run(name, work):
        write_text(work / f"{name}-run.txt", f"{run}\n")


def _hyperparameters(config: TrainConfig) -> dict[str, Any]:
    """Return what distinguishes a training from others: its task, its seed and its options."""
    return {"task": config.name, "seed": config.seed, **dataclasses.asdict(config.training)}


def _wandb(config: TrainConfig, work: Path) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    quiet = wandb.Settings(silent=True, console="off")
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WandbLogger(config.out, id=_kept_run("wandb", work), project=project, settings=quiet)


def _mlflow(config: TrainConfig, work: Path) -> Logger:
    import mlflow
    from lightning.pytorch.loggers import MLFlowLogger

    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    uri, run = mlflow.get_tracking_uri(), _kept_run("mlflow", work)
    return MLFlowLogger(project, config.out, tracking_uri=uri, run_id=run)


def _tensorboard(config: TrainConfig, work: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(work, name="logs", version="")


_MAKERS: Mapping[str, Callable[[TrainConfig, Path], Logger]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
