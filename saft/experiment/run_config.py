"""What `saft run` is given: tasks, arms, merges, seeds and train sizes, and what is read of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from saft import config as configs
from saft.config import (
    Count,
    CountOrZero,
    Depth,
    Fraction,
    Name,
    NonNegative,
    Repository,
    Seeds,
    Target,
)
from saft.config.ranges import name_problem
from saft.errors import UserError, collecting
from saft.experiment.arm_trials import ArmTrial, arm_trials, with_values
from saft.experiment.cells import is_too_long
from saft.experiment.cluster import RayOptions, SlurmOptions
from saft.experiment.given_experts import given_experts
from saft.experiment.merge_options import MergeOptions, SelectionOptions
from saft.experiment.published_figures import Expected, unknown_names
from saft.model_config import ModelConfig
from saft.training.loggers import LoggerName, check_logger
from saft.training.options import TrainingOptions
from saft.training.trainer_arguments import check_sharded, check_trainer

__all__ = ["RunConfig"]


@configs.checked
@dataclass(frozen=True)
class RunConfig:
    """What `saft run` needs.

    Example:
        >>> arms = {"adamw": {}, "sam": {"perturbation": {"name": "sam", "rho": 0.05}}}
        >>> task = {"kind": "language_modeling", "data": {"path": "org/news"}, "text": "{text}"}
        >>> config = RunConfig("runs/mine", ModelConfig("base"), {"news": task}, arms)
        >>> [config.training_of(trial).perturbation for trial in config.trials_of("sam")]
        [{'name': 'sam', 'rho': 0.05}]
    """

    out: Target
    """The folder of the experiment."""
    model: ModelConfig
    """The pretrained model."""
    tasks: dict[Name, dict[str, Any]]
    """Task name -> `kind` and the keys of that kind; see saft/tasks."""
    arms: dict[Name, dict[str, Any]]
    """Arm -> what it changes of `training`; `description`, its words in the report; and `choices`, option ->
    values, dotted within a mapping as perturbation.rho, of which those that merge best on validation data are
    taken. Or `experts`, task -> folder or hub id of a model or an adapter that is there already: nothing is
    trained, and the arm has one cell at each train size, under the first seed."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """How every arm trains, unless it says otherwise."""
    merges: dict[str, MergeOptions] = field(
        default_factory=lambda: {
            name: MergeOptions() for name in ("average", "task_arithmetic", "ties", "pcb")
        }
    )
    """Method, or a name beside `method`, -> its parameters and the coefficients to choose from. Of one that
    keeps a part per task, each task is scored with its own model."""
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    """How they are searched: a grid, or Optuna's TPE in a budget; whether each task has a weight; and in how
    many passes the `choices` of arms are."""
    seeds: Seeds = field(default_factory=lambda: [0])
    """Every seed draws its own training examples, their order, and dropout."""
    regimes: dict[Name, Count | None] = field(default_factory=lambda: {"all": None})
    """Name -> training examples of each task; null is all. Every arm and seed is run with each."""
    validation_examples: Count | None = None
    """At most this many validation examples of each task."""
    test_examples: Count | None = None
    """At most this many test examples of each task; null reads the whole test split."""
    test: bool = True
    """Read the test split at the end; false stops before, for choosing rho or steps on validation data."""
    density: Fraction = 0.2
    """Fraction of each task vector kept by the trimmed measures of interference, in (0, 1]."""
    sharpness_rho: NonNegative = 0.02
    """Radius of the worst-case sharpness of each expert, in weight space."""
    sharpness_examples: Count = 64
    """Validation examples that the sharpness is measured on."""
    measures: list[str | dict[str, Any]] = field(default_factory=list)
    """What is measured of each cell's experts beside weights and sharpness, as in `saft measure`: names,
    `standard`, `all`, `module:Name`, or {name: ..., option: ...}; on all validation examples."""
    reference: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Tasks, as under `tasks`, whose training inputs a penalty reads, unlabelled; they are not trained on."""
    held_out: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """Tasks, as under `tasks`, that are never trained on and choose nothing: the base, the experts and every
    merged model are scored on them, which says what a merge costs or keeps elsewhere. Their heads must not
    have to be trained: zero-shot, prototype, or a language model's own."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.Trainer: accelerator, devices, precision ...; see `saft train`."""
    data_workers: CountOrZero | None = None
    """Processes that make the batches of a training ahead; null is 4 for images on a GPU, and else 0."""
    logger: LoggerName | None = None
    """Where the logs of the trainings go beside their CSV files; null is nowhere. Each needs an extra:
    merge-saft[wandb], merge-saft[mlflow] or merge-saft[tensorboard]."""
    upload: Repository | None = None
    """Repository of the hub that the folder is uploaded to when all is finished, OWNER/NAME; one that is not
    there is made, private. Whether that is allowed is asked before the work."""
    keep: list[Literal["experts", "merges"]] = field(default_factory=lambda: ["experts"])
    """What stays on disk once its figures are known: experts, merges, both, or neither ([]). Without merges,
    the best of each arm and train size stays; without experts, a further merge method trains them again."""
    expected: dict[str, Expected] = field(default_factory=dict)
    """Name -> a published figure, which the report sets beside the one that comes out: met, or not met."""
    executor: str = "serial"
    """Who computes the cells: serial, one after the other in this process; local, several at a time in
    processes of this machine; ray or slurm, on a cluster."""
    workers: Count = 2
    """Cells that are computed at a time, unless `executor` is serial."""
    ray: RayOptions = field(default_factory=RayOptions)
    """What the executor `ray` gives each worker."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """What the executor `slurm` asks for each worker."""

    def __post_init__(self) -> None:
        for name in ("tasks", "arms", "merges", "regimes"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must not be empty")
        check_trainer(self.trainer)
        if self.executor == "local" and self.trainer.get("devices", 1) not in (1, "1"):
            raise ValueError(
                "trainer.devices: executor: local gives every cell one device; leave devices out, or take"
                " executor: serial, which trains one model at a time on all of them"
            )
        for name, changes in self.arms.items():
            if not isinstance(changes.get("description", ""), str):
                raise ValueError(f"arms.{name}.description: must be a text")
        problems = [
            f"held_out.{name}: a task that is trained on has this name; give it another"
            for name in self.held_out
            if name in self.tasks
        ]
        for name, merge in self.merges.items():
            if merge.method_of(name) == name:
                continue
            taken = f"'{name}' stands for another model in every table; take another name"
            if problem := taken if name in ("base", "experts") else name_problem(name):
                problems.append(f"merges.{name}: {problem}")
        problems += unknown_names(self.expected, self.tasks | self.held_out, self.arms)
        for name in self.arms:
            with collecting(problems):
                self.given(name)
                for trial in self.trials_of(name):
                    problems += self._too_long(trial)
                    with collecting(problems):
                        self.training_of(trial, "fields")
        if problems:  # a value that cannot be is told by every trial that has it
            raise UserError(*dict.fromkeys(problems))

    def _too_long(self, trial: ArmTrial) -> Iterator[str]:
        for size in self.regimes:
            if is_too_long(size, trial.name):
                place = f"arms.{trial.arm}{'.choices' if trial.values else ''}"
                cure = "choose among fewer options at a time, or " if trial.values else ""
                yield (
                    f"{place}: too long, with the train size {size}, for the name of a file; {cure}write a "
                    "shorter name"
                )

    def check_options(self) -> None:
        """Check what arms, merges, tasks and the executor know: their names and options.

        Raises:
            UserError: with everything that is wrong.
        """
        from saft import tasks
        from saft.experiment.executors import EXECUTORS
        from saft.experiment.resolve import resolve

        problems: list[str] = []
        with collecting(problems):
            check_logger(self.logger)
        with collecting(problems):
            resolve(self)
        for key, declared in (
            ("tasks", self.tasks),
            ("reference", self.reference),
            ("held_out", self.held_out),
        ):
            with collecting(problems):
                tasks.check_keys(declared, key)
        with collecting(problems):
            kinds = {f"tasks.{name}": keys["kind"] for name, keys in self.tasks.items() if "kind" in keys}
            trials = [trial for name in self.arms for trial in self.trials_of(name)]
            arms = [(f"arms.{trial.arm}", self.training_of(trial, "fields")) for trial in trials]
            check_sharded(self.trainer, arms, kinds)
        with collecting(problems, "executor: "):
            EXECUTORS.get(self.executor)
        if problems:
            raise UserError(*problems)

    def late_check(self) -> None:
        """Check what only slow libraries know of the arms.

        Raises:
            UserError: an optimizer cannot be made, or take a step of what is trained.
        """
        from saft import tasks

        heads, problems = tasks.trained_heads(self.tasks, "tasks"), list[str]()
        for name in self.arms:
            for trial in self.trials_of(name):
                for training in self.training_of(trial).trainings:
                    with collecting(problems, f"arms.{name}."):
                        training.check_optimizer(heads)
        if problems:
            raise UserError(*dict.fromkeys(problems))

    def trials_of(self, arm: str) -> list[ArmTrial]:
        """Return every combination of an arm's `choices`; the arm itself where it has none.

        Args:
            arm: its name.

        Raises:
            UserError: `choices` holds something else than lists of values.
        """
        return arm_trials(arm, self.arms[arm])

    def given(self, arm: str) -> dict[str, str] | None:
        """Return task -> location of the experts of an arm that are given; None where they are trained.

        Args:
            arm: its name.

        Raises:
            UserError: they are not those of the tasks, or the arm trains as well.
        """
        return given_experts(arm, self.arms[arm], self.tasks)

    def training_of(self, trial: ArmTrial, depth: Depth = "all") -> TrainingOptions:
        """Return how an arm trains: the common options with its own changes, and the values of a trial.

        Of an arm whose experts are given, the options are those that nobody has changed.

        Args:
            trial: of the arm.
            depth: how far it is checked; see `saft.config.parse`.

        Raises:
            UserError: a change is of no option of a training, or cannot be its value.
        """
        if self.given(trial.arm) is not None:
            return TrainingOptions()
        own = {key: of for key, of in self.arms[trial.arm].items() if key not in ("description", "choices")}
        options = with_values(dataclasses.asdict(self.training) | own, trial.values)
        options = _counted(options, len(self.tasks))
        place = f"arms.{trial.arm}"
        try:
            return configs.parse(TrainingOptions, options, "", place, depth)
        except UserError as error:
            problems = (_below_choices(text, place, trial.values) for text in error.problems)
            raise UserError(*problems) from None


def _counted(options: dict[str, Any], tasks: int) -> dict[str, Any]:
    """Return options of a training in which rho: others knows how many tasks there are, where no first round
    tells their task vectors.
    """
    first, ascent = options.get("first_round"), options.get("perturbation")
    if isinstance(first, dict):
        options = options | {"first_round": _counted(first, tasks)}
    known = isinstance(first, dict) and options.get("start") is None
    if isinstance(ascent, dict) and ascent.get("rho") == "others" and not known and tasks > 1:
        options = options | {"perturbation": {"tasks": tasks} | ascent}
    return options


def _below_choices(problem: str, place: str, options: Iterable[str]) -> str:
    """Return what is wrong with an option with the place where the user wrote its values."""
    for option in options:
        first = option.split(".")[0]
        for told, key in (
            (f"{place}.{first}", first),
            (f"{place}: {option.replace('.', ': ')}", option),
        ):
            if problem.startswith((f"{told}:", f"{told}.")):
                return f"{place}.choices.{key}{problem.removeprefix(told)}"
    return problem
