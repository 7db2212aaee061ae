"""What `saft suggest` is given: checkpoints, the methods to try, and a budget of evaluations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from saft import config as configs
from saft.config import Count, Location, Name, Range, Seed, Target
from saft.errors import UserError, collecting, did_you_mean
from saft.extras import require
from saft.files.locations import by_name
from saft.model_config import Device, Precision, check_device

__all__ = ["SuggestConfig"]


@configs.checked
@dataclass(frozen=True)
class SuggestConfig:
    """What `saft suggest` needs.

    Example:
        >>> SuggestConfig("base", {"news": "runs/news", "tweets": "runs/tweets"}).budget
        40
    """

    base: str
    """The base model: a folder, a hub id, or package://..."""
    checkpoints: list[Location] | dict[Name, Location]
    """The fine-tuned checkpoints; as a mapping, task name -> folder. On the command line, the folders."""
    tasks: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`, for the checkpoint of this name; the others have the task that
    their saft.json declares."""
    methods: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"average": {}, "task_arithmetic": {}, "ties": {}, "pcb": {}}
    )
    """Methods to try -> their parameters: those that give one model from weights only. Values to choose from
    stand under `choices`, as {ties: {choices: {density: [0.1, 0.2]}}}; each combination is tried as a method
    of its own."""
    weights: Literal["equal", "per_task", "per_layer"] = "equal"
    """Whether half of the budget goes to task arithmetic with weights instead of one coefficient, found by
    CMA-ES from the best one on: `per_task` one for each task, `per_layer` three for each, at the first, the
    middle and the last layer with lines between."""
    budget: Count = 40
    """Merged models that are evaluated at most, each on the examples of all tasks."""
    examples: Annotated[int, Range(whole=True, at_least=2, at_most=10**9)] = 512
    """At most this many validation examples of each task: half are searched on, the others say afterwards how
    sure the choice is."""
    batch_size: Count = 64
    """Examples in a forward pass."""
    exclude: list[str] = field(default_factory=list)
    """Globs of tensor names that stay as in the base."""
    seed: Seed = 0
    """Seed of methods that draw random numbers, and of CMA-ES."""
    device: Device = "cpu"
    """The torch device to evaluate on: cpu, cuda, cuda:1, mps."""
    precision: Precision | None = None
    """Of the scores: 32-true or bf16-mixed; null is what `saft train` takes on this device, bf16-mixed on
    a GPU that has bfloat16."""
    out: Target = "merge.yaml"
    """The file to write, a config of `saft merge`."""
    trials: Target | None = None
    """A JSON file for everything that was tried."""

    def __post_init__(self) -> None:
        if len(self.checkpoints) < 2:
            raise ValueError("checkpoints: a merge needs two or more")
        if not self.methods:
            raise ValueError("methods: must not be empty")
        if self.weights != "equal" and "task_arithmetic" not in self.methods:
            raise ValueError("weights: are those of task_arithmetic, which is not among `methods`; add it")
        merges = len(self.variants)
        least = merges * (1 if self.weights == "equal" else 2)
        if self.budget < least:
            raise ValueError(
                f"budget: is {self.budget}, but {merges} methods need an evaluation each"
                f"{', and the weights as many' if self.weights != 'equal' else ''}; "
                f"give {least} or more, or fewer `methods`"
            )
        paths = by_name(self.checkpoints)
        for name in self.tasks:
            if name not in paths:
                hint = did_you_mean(name, paths)
                raise ValueError(f"tasks.{name}: there is no checkpoint of this name{hint}")

    @property
    def variants(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name -> method and its parameters, for each combination of its `choices`.

        Raises:
            ValueError: `choices` holds something else than lists of values.

        Example:
            >>> methods = {"average": {}, "ties": {"choices": {"density": [0.1, 0.2]}}}
            >>> list(SuggestConfig("base", ["runs/news", "runs/tweets"], methods=methods).variants)
            ['average', 'ties (density 0.1)', 'ties (density 0.2)']
        """
        made = {}
        for method, keys in self.methods.items():
            own = {name: value for name, value in keys.items() if name != "choices"}
            choices = keys.get("choices", {})
            lists = choices.values() if isinstance(choices, dict) else [None]
            if not all(isinstance(values, list) and values for values in lists):
                raise ValueError(
                    f"methods.{method}.choices: must be lists of values, such as {{density: [0.1, 0.2]}}, "
                    f"but is {choices!r}"
                )
            if both := [name for name in choices if name in own]:
                raise ValueError(f"methods.{method}.choices.{both[0]}: has a value beside it; leave one out")
            for values in itertools.product(*lists):
                chosen = dict(zip(choices, values, strict=True))
                words = ", ".join(f"{name} {value}" for name, value in chosen.items())
                made[f"{method} ({words})" if words else method] = (method, own | chosen)
        return made

    def check_options(self) -> None:
        """Check what the methods and the kinds of tasks know: their names and options.

        Raises:
            UserError: with everything that is wrong.
        """
        from saft import tasks
        from saft.merging.methods import METHODS

        problems: list[str] = []
        if self.weights != "equal":
            with collecting(problems):
                require("cmaes", f"weights: {self.weights}")
            if "weights" in self.methods["task_arithmetic"]:
                problems.append("methods.task_arithmetic.weights: are searched by `weights`; leave one out")
        for name, (kind, parameters) in self.variants.items():
            with collecting(problems, f"methods.{name}: "):
                method = METHODS.get(kind).build(parameters)
                if method.calibration or method.gives != "one model":
                    what = "reads examples" if method.calibration else f"gives {method.gives}"
                    raise UserError(f"{what}; take methods that give one model from weights only")
                if problem := next(iter(method.problems(len(self.checkpoints))), None):
                    raise UserError(problem)
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
