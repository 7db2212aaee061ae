"""What `saft measure` is told: checkpoints and their base, and how sharpness is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saft import config as configs
from saft.config import Count, Fraction, Location, Name, NonNegative
from saft.model_config import check_device

__all__ = ["MeasureConfig"]


@configs.checked
@dataclass(frozen=True)
class MeasureConfig:
    """What `saft measure` needs."""

    base: str
    """The base model: a folder, a hub id, or package://..."""
    checkpoints: list[Location] | dict[Name, Location]
    """The fine-tuned checkpoints; as a mapping, task name -> folder."""
    density: Fraction = 0.2
    """Measure a second time after trimming each task vector to this fraction of its entries."""
    exclude: list[str] = field(default_factory=list)
    """Globs of tensor names to leave out."""
    tasks: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`, to measure the sharpness of the checkpoint of this name on; of the
    others it is measured on the task that their saft.json declares."""
    rho: NonNegative = 0.02
    """Radius of the worst-case sharpness, in weight space."""
    examples: Count = 64
    """Validation examples that the sharpness is measured on."""
    device: str = "cpu"
    """The torch device that the sharpness is measured on: cpu, cuda, cuda:1, mps."""
    out: Location | None = None
    """A JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("checkpoints: must not be empty")

    def late_check(self) -> None:
        """Check what only torch knows: the device."""
        check_device(self.device)
