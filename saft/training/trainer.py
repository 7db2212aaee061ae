"""Lightning's trainer as saft runs it: its device, its quiet, its interrupts."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from saft.errors import UserError, first_line
from saft.training.devices import NoSuchDevice, check_devices
from saft.training.precision import usual_precision
from saft.training.trainer_arguments import is_sharded

__all__ = [
    "device_count",
    "device_of",
    "interruptible",
    "make_trainer",
    "quiet_lightning",
]

DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
}


def make_trainer(options: Mapping[str, Any], **own: Any) -> L.Trainer:
    """Return a trainer.

    Args:
        options: `trainer` of the config: arguments of lightning.Trainer; without `precision` it is
            bf16-mixed on a GPU that has bfloat16, and 32-true elsewhere.
        **own: arguments that saft sets.

    Raises:
        UserError: Lightning refuses the arguments, there are no such devices, or several machines.
    """
    check_devices(options)
    try:
        with quiet_lightning():
            given = dict(options) | ({"strategy": "auto"} if is_sharded(options) else {})  # ours, not theirs
            usual = {"precision": usual_precision(options.get("accelerator", "auto"))}
            trainer = L.Trainer(**DEFAULTS | usual | given | own)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    if trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes: is {trainer.num_nodes}, but saft trains a model on devices of one machine; "
            "train tasks and arms side by side instead: executor: slurm or ray of `saft run`"
        )
    return trainer


def device_of(options: Mapping[str, Any], elsewhere: bool = False) -> torch.device:
    """Return the device that a trainer with these options trains on; the first, if there are several.

    Args:
        options: `trainer` of the config.
        elsewhere: other machines train, which may have a device that this one has not; then the CPU.

    Raises:
        UserError: as `make_trainer`.

    Example:
        >>> device_of({"accelerator": "cpu"})
        device(type='cpu')
    """
    try:
        device: torch.device = make_trainer(options, logger=False).strategy.root_device
    except NoSuchDevice:
        if not elsewhere:
            raise
        return torch.device("cpu")
    return device


def device_count(options: Mapping[str, Any]) -> int:
    """Return how many devices a trainer with these options trains on.

    Args:
        options: `trainer` of the config.

    Raises:
        UserError: as `make_trainer`.

    Example:
        >>> device_count({"accelerator": "cpu", "devices": 2})
        2
    """
    return make_trainer(options, logger=False).world_size


@contextmanager
def interruptible() -> Iterator[None]:
    """Hand an interrupt on to the caller, and treat SIGTERM as one.

    Lightning turns an interrupt into an exit and ignores all that follow; of SIGTERM it takes note at the end
    of a step. Handlers can be set in the main thread only; elsewhere nothing is done.

    Raises:
        KeyboardInterrupt: an interrupt, or SIGTERM, has ended what ran inside.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt, end = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if end is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, end)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says at every start: with a dozen experts a run, it would drown the rest."""
    talkers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        # The last is Lightning 2.6's own, about torch 2.13's pytree.
        talk = (".*many workers.*", ".*historical reasons.*", ".*LeafSpec.*")
        for pattern in talk:
            warnings.filterwarnings("ignore", pattern)
        for talker in talkers:
            talker.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)
