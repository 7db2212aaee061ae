"""What `saft evaluate` is given: checkpoints, tasks, and the split to measure on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from saft import config as configs
from saft.config import Count, Location, Name, Target, distinct
from saft.model_config import Device, Precision, check_device

__all__ = ["EvaluateConfig"]


@configs.checked
@dataclass(frozen=True)
class EvaluateConfig:
    """What `saft evaluate` needs.

    Example:
        >>> EvaluateConfig(checkpoints=["runs/ag_news"], split="validation").batch_size
        64
    """

    checkpoints: Annotated[list[Location], AfterValidator(distinct)]
    """Checkpoint folders, as written by `saft train` or `saft merge`, or any model with `tasks` given. On the
    command line, the folders."""
    tasks: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`; empty takes the tasks that the checkpoints were made for."""
    split: Literal["validation", "test"] = "test"
    """The split to measure on."""
    examples: Count | None = None
    """At most this many examples of the split; null takes all."""
    batch_size: Count = 64
    """Examples per forward pass; the result does not depend on it beyond round-off."""
    device: Device = "cpu"
    """The torch device to run on: cpu, cuda, cuda:1, mps."""
    precision: Precision | None = None
    """Of the scores: 32-true or bf16-mixed; null is what `saft train` takes on this device, bf16-mixed on
    a GPU that has bfloat16."""
    out: Target | None = None
    """A JSON file to write the figures to."""

    def check_options(self) -> None:
        """Check what the kinds of tasks know: their keys."""
        from saft import tasks

        tasks.check_keys(self.tasks, "tasks")

    def late_check(self) -> None:
        """Check what only torch knows: the device.

        Raises:
            ValueError: there is no such device.
        """
        check_device(self.device)
