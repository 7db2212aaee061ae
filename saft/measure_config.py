"""What `saft measure` is given: checkpoints and their base, what is measured of them, and in which budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from saft import config as configs
from saft.config import (
    Count,
    FiniteFloat,
    Fraction,
    Location,
    Name,
    NonNegative,
    Positive,
    Range,
    Seed,
    Target,
)
from saft.errors import UserError, collecting
from saft.model_config import Device, Precision, check_device

__all__ = ["MeasureConfig", "MergeToMeasure"]


@configs.checked
@dataclass(frozen=True)
class MergeToMeasure:
    """The merge that is measured: whom it hurts, and what it keeps."""

    method: str = "task_arithmetic"
    """Name of a merge method that gives one model and reads no examples; `saft methods` lists them."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method."""
    scaling: FiniteFloat | None = None
    """The scaling coefficient; null takes the best of the method's grid on the examples."""


@configs.checked
@dataclass(frozen=True)
class MeasureConfig:
    """What `saft measure` needs.

    Example:
        >>> MeasureConfig("package://model2vec/base", {"news": "runs/news", "tweets": "runs/tweets"}).density
        0.2
    """

    base: str
    """The base model: a folder, a hub id, or package://..."""
    checkpoints: list[Location] | dict[Name, Location]
    """The fine-tuned checkpoints; as a mapping, task name -> folder. On the command line, the folders."""
    measures: list[str | dict[str, Any]] = field(default_factory=lambda: ["standard"])
    """What is measured: names, `standard`, `all`, `module:Name` of your own, or {name: ..., option: ...};
    `saft measures` lists them."""
    density: Fraction = 0.2
    """Measure a second time after trimming each task vector to this fraction of its entries."""
    exclude: list[str] = field(default_factory=list)
    """Globs of tensor names to leave out; in every model they stay as in the base."""
    tasks: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`, to measure losses and functions of the checkpoint of this name on;
    those of the others are measured on the task that their saft.json declares."""
    merge: MergeToMeasure = field(default_factory=MergeToMeasure)
    """The merge whose harm is measured."""
    rho: NonNegative = 0.02
    """Radius of the worst-case sharpness, in weight space."""
    grid: Annotated[int, Range(whole=True, at_least=3, at_most=101)] | None = None
    """Coefficients along a line, and on each side of a plane, where an entry of `measures` gives no other;
    null leaves each measure its own, see `saft measures`."""
    examples: Count = 64
    """Validation examples of each task."""
    batch_size: Count = 64
    """Examples in a forward pass."""
    seed: Seed = 0
    """Seed of random directions, and of a merge method that draws random numbers."""
    seconds: Positive | None = None
    """Leave out each measure, in the order of the list, that would take more than is left of this for losses,
    functions and merges, as estimated before the first; null makes all of them."""
    device: Device = "cpu"
    """The torch device for losses and functions: cpu, cuda, cuda:1, mps."""
    precision: Precision | None = None
    """Of scores: 32-true or bf16-mixed; null is what `saft train` takes on this device, bf16-mixed on a GPU
    that has bfloat16. Losses and functions are in float32."""
    out: Target | None = None
    """A JSON file to write the figures to."""

    def __post_init__(self) -> None:
        for key in ("checkpoints", "measures"):
            if not getattr(self, key):
                raise ValueError(f"{key}: must not be empty")

    def check_options(self) -> None:
        """Check what the measures, the merge method and the kinds of tasks know: their names and options.

        Raises:
            UserError: with everything that is wrong.
        """
        from saft import tasks
        from saft.interference.chosen_measures import chosen
        from saft.merging.methods import METHODS

        problems: list[str] = []
        with collecting(problems):
            chosen(self.measures, "measures", rho=self.rho, grid=self.grid, seed=self.seed)
        with collecting(problems, "merge.method: "):
            method = METHODS.get(self.merge.method)
            with collecting(problems, "merge.parameters: "):
                method.build(self.merge.parameters)
        with collecting(problems):
            tasks.check_keys(self.tasks, "tasks")
        if problems:
            raise UserError(*problems)

    def late_check(self) -> None:
        """Check what only torch knows: the device.

        Raises:
            ValueError: there is no such device.
        """
        check_device(self.device)
