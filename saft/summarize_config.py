"""What `saft summarize` is given: a model, a task, and the file to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saft import config as configs
from saft.config import Count, CountOrZero, Name, Seed, Target
from saft.model_config import Device, ModelConfig, check_device

__all__ = ["SummarizeConfig"]


@configs.checked
@dataclass(frozen=True)
class SummarizeConfig:
    """What `saft summarize` needs.

    Example:
        >>> task = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}
        >>> SummarizeConfig(ModelConfig("base"), task, out="news.safetensors").examples
        192
    """

    model: ModelConfig
    """The pretrained model that every expert starts from."""
    task: dict[str, Any]
    """The task: `kind` and the keys of that kind, as in `saft train`; its labels are not used."""
    out: Target
    """The safetensors file to write."""
    name: Name = "task"
    """The task's name, for messages."""
    examples: Count = 192
    """Training inputs that the summary is made from; 128 to 256 suffice."""
    rank: CountOrZero | None = None
    """How many eigenvectors of each matrix are kept beside its diagonal: 0 or more; null takes all."""
    seed: Seed = 0
    """Draws the inputs, and the random projections."""
    device: Device = "cpu"
    """The torch device to run on: cpu, cuda, cuda:1, mps."""

    def check_options(self) -> None:
        """Check what the kinds of tasks know: their keys."""
        from saft import tasks

        tasks.build("", self.task, "task")

    def late_check(self) -> None:
        """Check what only torch knows: the device.

        Raises:
            ValueError: there is no such device.
        """
        check_device(self.device)
