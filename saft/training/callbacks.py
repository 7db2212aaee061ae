"""What happens between training steps: the bar moves, NaN stops the run, the best candidate is kept."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file, save_file

from saft.errors import UserError
from saft.files.staging import replaced, telling_a_full_disk
from saft.progress import Bar
from saft.tasks import Metric
from saft.trajectory import RunningAverage

__all__ = [
    "AverageWeights",
    "Diverged",
    "LogSteps",
    "SaveEvery",
    "SelectSteps",
    "ShowProgress",
    "StopOnNonFinite",
    "Stopwatch",
]


class ShowProgress(L.Callback):
    """Advance a bar after every step.

    Args:
        bar: where to show it.
        cost: how much one step advances the bar.
    """

    def __init__(self, bar: Bar, cost: float) -> None:
        self.bar = bar
        self.cost = cost

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps of an earlier, interrupted run as done."""
        self.bar.advance(self.cost * trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Count the step."""
        self.bar.advance(self.cost)


class Diverged(UserError):
    """A training's loss is NaN or infinite: to go on from where it stopped would lead to the same again."""


class StopOnNonFinite(L.Callback):
    """Stop when the loss is NaN or infinite, or the last step has made a weight so.

    Args:
        every: steps between two looks; a look waits for the device.

    Raises:
        Diverged: at a look.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look at the loss that was logged, and at the end at the weights, which no loss is of.

        Raises:
            Diverged: the loss, or a weight, is NaN or infinite.
        """
        is_last = trainer.global_step == trainer.max_steps
        if trainer.global_step % self.every and not is_last:
            return
        loss = trainer.callback_metrics.get("loss")
        if loss is not None and not torch.isfinite(loss):
            raise Diverged(
                f"training diverged: the loss is {loss.item()} at step {trainer.global_step};"
                " lower learning_rate or rho"
            )
        if is_last and not all(map(_is_finite, pl_module.parameters())):
            raise Diverged(
                f"training diverged: step {trainer.global_step}, the last, has made weights infinite or NaN;"
                " lower learning_rate or rho"
            )


def _is_finite(weights: torch.nn.Parameter) -> bool:
    is_sharded = hasattr(weights, "to_local")  # then no process could say it alone
    return not weights.requires_grad or is_sharded or bool(weights.detach().isfinite().all())


class SelectSteps(L.Callback):
    """Keep the weights of the candidate step that validates best; of equals, the earliest.

    The best weights lie in a file, so that an interrupted run finds them again.

    Args:
        candidates: numbers of steps after which to validate.
        validate: returns the validation figure of the module as it is.
        metric: of the figure; says which of two is better.
        file: where the best weights are kept.
    """

    def __init__(
        self, candidates: list[int], validate: Callable[[], float], metric: Metric, file: Path
    ) -> None:
        self.candidates = frozenset(candidates)
        self.validate = validate
        self.metric = metric
        self.file = file
        self.figures: dict[int, float] = {}

    @property
    def best(self) -> int:
        """The number of steps chosen."""
        sign = 1 if self.metric.higher_is_better else -1
        return max(self.figures, key=lambda step: (sign * self.figures[step], -step))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Validate at a candidate step."""
        step = trainer.global_step
        if step not in self.candidates or step in self.figures:
            return
        self.figures[step] = trainer.strategy.broadcast(self.validate())
        if self.best != step:
            return
        whole = trainer.strategy.lightning_module_state_dict()  # to which every process adds its share
        if trainer.is_global_zero:
            state = {name: value.clone().contiguous() for name, value in whole.items()}
            with replaced(self.file) as temporary:
                save_file(state, temporary)
        trainer.strategy.barrier()

    def restore_best(self, trainer: L.Trainer) -> None:
        """Put the weights of the best candidate into the module."""
        trainer.strategy.load_model_state_dict({"state_dict": load_file(self.file)}, strict=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the figures, for Lightning's checkpoint."""
        return {"figures": self.figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the figures of an interrupted run."""
        self.figures = dict(state_dict["figures"])


class AverageWeights(L.Callback):
    """Take every step's weights into an average.

    Args:
        running: the average; what to do with it at the end is the caller's.
    """

    def __init__(self, running: RunningAverage) -> None:
        self.running = running

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Take in the weights after a step."""
        self.running.update(pl_module, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, for Lightning's checkpoint."""
        return self.running.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the average of an interrupted run."""
        self.running.load_state_dict(state_dict)


class LogSteps(L.Callback):
    """Write what the module logs to a CSV file, of every step that Lightning would tell its loggers of.

    Lightning's own logger begins a new file when a training goes on. This one's rows are in the checkpoint:
    the file of a resumed training is that of an uninterrupted one.

    Args:
        file: to write; `step` is counted from 0.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the file anew, with the rows of an interrupted run up to its checkpoint."""
        if trainer.is_global_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.unlink(missing_ok=True)
            self._write(self.rows)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Add the row of a step."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.is_global_zero and every and trainer.global_step % every == 0:
            logged = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
            self.rows.append({"step": trainer.global_step - 1, **logged})
            self._write(self.rows[-1:])

    def _write(self, rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        with telling_a_full_disk(self.file), self.file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            if not file.tell():
                writer.writeheader()
            writer.writerows(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for Lightning's checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of an interrupted run."""
        self.rows = list(state_dict["rows"])


class SaveEvery(L.Callback):
    """Keep Lightning's checkpoint of the last multiple of `every` steps, whole or not at all.

    Lightning's own ModelCheckpoint expects a manually optimized module to save its weights from before the
    step, and otherwise warns; what a resumed run needs is the state after it. Put this callback last, so that
    it sees what the others have done.

    Args:
        every: steps between two checkpoints; 0 writes none.
        file: where it is kept.
    """

    def __init__(self, every: int, file: Path) -> None:
        self.every = every
        self.file = file

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write the checkpoint if it is due.

        Raises:
            UserError: the disk is full.
        """
        if not self.every or trainer.global_step % self.every or trainer.global_step == trainer.max_steps:
            return
        writes = trainer.is_global_zero  # to whose weights the others add theirs
        with replaced(self.file) if writes else nullcontext(self.file) as place:
            trainer.save_checkpoint(place)


class Stopwatch(L.Callback):
    """Measure how long a training takes: what a penalty computes at the base, and the steps, validation and
    checkpoints among them. Interruptions do not count."""

    def __init__(self) -> None:
        self._before = 0.0
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds since the training began, over all its runs."""
        return self._before + (0.0 if self._begun is None else time.perf_counter() - self._begun)

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Count what is computed inside, before the steps; that of a run that is resumed counts once."""
        begun = time.perf_counter()
        yield
        self._before += time.perf_counter() - begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self._begun = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop, once the device is done."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._before, self._begun = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds until now, for Lightning's checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the seconds of an interrupted run."""
        self._before = state_dict["seconds"]
