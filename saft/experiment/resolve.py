"""A run's config with every default filled in: how arms train, what merges try, which cells there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from saft.errors import UserError, collecting
from saft.experiment.arm_trials import ArmTrial, drawn, refuse_small_budget, without_values
from saft.experiment.cells import Cell, grid
from saft.experiment.merge_options import MergeOptions
from saft.experiment.published_figures import unknown_methods
from saft.experiment.run_config import RunConfig
from saft.experiment.trial_search import TrialSearch
from saft.interference.chosen_measures import chosen
from saft.interference.quantity import MEASURES, Measure
from saft.measure_models import merge_problems
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.training.options import TrainingOptions

__all__ = ["Resolved", "resolve"]


@dataclass(frozen=True)
class Resolved:
    """An experiment as it will be carried out.

    Args:
        config: as the user wrote it.
        trials: name -> trial that may be tried of an arm, those of an arm one after the other; an arm without
            `choices` is its own only trial.
        arms: name of a trial -> how it trains: the common options with the arm's changes and its own values.
        merges: name -> its method and parameters, and the coefficients to choose from, at least one.
        measures: name -> measure, beside those of weights and the sharpness.
    """

    config: RunConfig
    trials: dict[str, ArmTrial]
    arms: dict[str, TrainingOptions]
    merges: dict[str, MergeOptions]
    measures: dict[str, Measure]

    @property
    def measured_merge(self) -> str:
        """The merge that is measured: task_arithmetic, or the first of one model and no examples."""
        plain = [name for name in self.merges if _is_measurable(self.method(name))]
        return "task_arithmetic" if "task_arithmetic" in plain else plain[0]

    @property
    def deciding(self) -> list[str]:
        """The merges that a trial of an arm is chosen by, and the best merge is of: they give one model.

        Those that keep a part per task need to be told the task, so they are no rivals of the others; only
        where there are no others do they decide.
        """
        return [name for name in self.merges if not self.keeps_parts(name)] or list(self.merges)

    def method(self, merge: str) -> str:
        """Return the name of the method of a merge of the config."""
        return self.merges[merge].method_of(merge)

    def keeps_parts(self, merge: str) -> bool:
        """Return whether a merge of the config keeps a part per task, and so each task has its own model."""
        return issubclass(METHODS.get(self.method(merge)), PerTaskMethod)

    @property
    def cells(self) -> list[Cell]:
        """Every cell that there may be, of every trial of every arm, in the order in which they are run.

        Experts that are given have no seed: theirs are under the first.
        """
        every, first = grid(self.config.regimes, self.trials, self.config.seeds), self.config.seeds[0]
        return [cell for cell in every if cell.seed == first or not self.is_given(cell.arm)]

    def is_given(self, trial: str) -> bool:
        """Return whether the experts of a trial are given, and not trained."""
        return self.config.given(self.trials[trial].arm) is not None

    def trials_of(self, arm: str) -> list[ArmTrial]:
        """Return the trials that may be tried of an arm, of which one is reported as the arm."""
        return [trial for trial in self.trials.values() if trial.arm == arm]

    def arm_of(self, cell: Cell) -> str:
        """Return the arm that a cell is a trial of."""
        return self.trials[cell.arm].arm

    def search_of(self, arm: str, higher_is_better: bool = True) -> TrialSearch | None:
        """Return how the trials of an arm are drawn by what those before are worth; None where all are tried.

        Args:
            arm: its name.
            higher_is_better: of what they are worth.
        """
        selection, trials = self.config.selection, self.trials_of(arm)
        if selection.arm_passes is None or selection.arm_search == "random" or len(trials) == 1:
            return None
        passes = {trial.name: self.arms[trial.name].passes for trial in trials}
        return TrialSearch(trials, passes, selection.arm_passes, selection.seed, higher_is_better)

    def description(self, arm: str) -> str:
        """Return the words that the report has for an arm: the user's, or its name."""
        return str(self.config.arms[arm].get("description", arm))

    def reads(self, trial: str) -> Literal["others", "reference"] | None:
        """Return whose inputs the penalty of a trial reads, if any."""
        return self.arms[trial].reads

    def reference(self, trial: str, task: str) -> dict[str, dict[str, Any]]:
        """Return name -> keys of the tasks whose inputs a trial's penalty reads when it trains on a task."""
        match self.reads(trial):
            case "others":
                return {name: keys for name, keys in self.config.tasks.items() if name != task}
            case "reference":
                return self.config.reference
            case None:
                return {}

    def plain(self) -> dict[str, Any]:
        """Return the whole config as plain values, as config.yaml holds it.

        It is a config of `saft run` again, without `out` and `upload`, since a folder may be moved, and
        without `training`, since each arm says everything.
        """
        plain = dataclasses.asdict(self.config)
        del plain["out"], plain["upload"], plain["training"]
        plain["arms"] = {
            arm: {"description": self.description(arm), **self._plain_arm(arm)} for arm in self.config.arms
        }
        plain["merges"] = {name: dataclasses.asdict(options) for name, options in self.merges.items()}
        return _through_yaml(plain)

    def plain_training(self, trial: str) -> dict[str, Any]:
        """Return how a trial trains as plain values."""
        return _through_yaml(dataclasses.asdict(self.arms[trial]))

    def _plain_arm(self, arm: str) -> dict[str, Any]:
        if (given := self.config.given(arm)) is not None:
            return {"experts": given}
        first = self.trials_of(arm)[0]
        options = without_values(dataclasses.asdict(self.arms[first.name]), first.values)
        return options | ({"choices": self.config.arms[arm]["choices"]} if first.values else {})


def resolve(config: RunConfig) -> Resolved:
    """Fill in every default.

    Raises:
        UserError: an arm, a method, or one of their values does not exist; all of them at once.
    """
    problems: list[str] = []
    trials: dict[str, ArmTrial] = {}
    arms: dict[str, TrainingOptions] = {}
    merges = {}
    for name in config.arms:
        with collecting(problems):
            for trial, options in _trained(config, name):
                trials[trial.name], arms[trial.name] = trial, options
    for name, tried in config.merges.items():
        with collecting(problems, f"merges.{name}: "):
            trained = [options for trial, options in arms.items() if config.given(trials[trial].arm) is None]
            merges[name] = _merge(name, tried, trained, len(config.tasks))
    problems += _without_sum(config)
    problems += unknown_methods(config.expected, {*config.merges, *METHODS.names()})
    measures: dict[str, Measure] = {}
    with collecting(problems):
        every = chosen(config.measures, "measures", rho=config.sharpness_rho)
        measures = {name: made for name, made in every.items() if not _is_always_made(name, made)}
    of_models = [made for made in measures.values() if made.of_merge or made.needs != "weights"]
    if of_models and not any(_is_measurable(tried.method_of(name)) for name, tried in merges.items()):
        problems.append(
            "measures: need a merge that gives one model and reads no examples; "
            "add task_arithmetic to `merges`"
        )
    if problems:
        raise UserError(*problems)
    resolved = Resolved(config, trials, arms, merges, measures)
    if of_models:
        measured = resolved.measured_merge
        given = merges[measured].parameters
        problems += merge_problems(measures, resolved.method(measured), given, list(config.tasks))
    if problems:
        raise UserError(*problems)
    return resolved


def _trained(config: RunConfig, arm: str) -> list[tuple[ArmTrial, TrainingOptions]]:
    """Return the trials of an arm that may be tried, each with how it trains."""
    problems: list[str] = []
    every, options = config.trials_of(arm), dict[str, TrainingOptions]()
    for trial in every:
        with collecting(problems):
            options[trial.name] = config.training_of(trial, "options")
            problems += _without_inputs(config, arm, options[trial.name])
    if problems:
        raise UserError(*dict.fromkeys(problems))
    budget = config.selection.arm_passes
    if budget is not None and len(every) > 1:
        passes = {name: of.passes for name, of in options.items()}
        refuse_small_budget(every, passes, budget)
        if config.selection.arm_search == "random":
            every = drawn(every, passes, budget, config.selection.seed)
    return [(trial, options[trial.name]) for trial in every]


def _without_inputs(config: RunConfig, arm: str, options: TrainingOptions) -> Iterator[str]:
    """Yield what is wrong where an arm's penalty reads inputs that are not there."""
    if options.reads == "others" and len(config.tasks) < 2:
        yield f"arms.{arm}.penalty: reads the inputs of the other tasks, but there is one task; add a task"
    if options.reads == "reference" and not config.reference:
        yield f"arms.{arm}.penalty: reads the inputs under `reference`, which is empty; list tasks there"
    if options.needs_vectors and len(config.tasks) < 2:
        asking = options.asking
        yield f"arms.{arm}.perturbation: {asking} goes by the other tasks, but there is one; add a task"
    elif options.needs_vectors and options.first_round is None:
        yield (
            f"arms.{arm}.first_round: is missing: perturbation: task_vectors needs the other tasks' experts; "
            "write how they are trained first, such as first_round: {steps: 67}"
        )
    if options.start is not None:
        method = METHODS.get(options.start.method).build(options.start.parameters)
        yield from (f"arms.{arm}.start: {problem}" for problem in method.problems(len(config.tasks)))


def _without_sum(config: RunConfig) -> Iterator[str]:
    """Yield what is wrong where weights are searched, and there is no plain sum of task vectors to weigh."""
    if config.selection.weights == "equal":
        return
    options = config.merges.get("task_arithmetic")
    if options is None or options.method_of("task_arithmetic") != "task_arithmetic":
        yield (
            f"selection.weights: {config.selection.weights} needs the merge that is weighed; "
            "add task_arithmetic to `merges`"
        )
    elif "weights" in options.parameters:
        yield "merges.task_arithmetic.parameters.weights: are searched by selection.weights; leave one out"


def _merge(name: str, options: MergeOptions, arms: Iterable[TrainingOptions], tasks: int) -> MergeOptions:
    """Return the options with the method's name, and its own grid where the user gives none."""
    name = _method(name, options)
    method = METHODS.get(name).build(options.parameters)
    if problems := method.problems(tasks):
        raise UserError(*problems)
    if method.needs_adapters and not all(arm.trained.is_adapter for arm in arms):
        raise UserError("merges LoRA adapters, so every arm needs parametrization: {name: lora}")
    if len(method.scaling_grid) == 1 and options.scaling not in ([], list(method.scaling_grid)):
        raise UserError(f"scaling: {name} has no scaling coefficient; leave it out")
    choices = {parameter: _values(name, options, parameter, tasks) for parameter in options.choices}
    scaling = options.scaling or list(method.scaling_grid)
    return dataclasses.replace(options, method=name, scaling=scaling, choices=choices)


def _method(merge: str, options: MergeOptions) -> str:
    """Return the name of a merge's method."""
    method = options.method_of(merge)
    if merge in METHODS and merge != method:
        raise UserError(f"method: is {method}, but {merge} is another method's name; give it a new one")
    return method


def _is_always_made(name: str, measure: Measure) -> bool:
    """Return whether `weight_interference` makes a measure of every cell, with the options that it has."""
    default = measure == type(measure)() if dataclasses.is_dataclass(measure) else True
    of_vectors = measure.needs == "weights" and measure.standard and not measure.of_merge
    return of_vectors and name in MEASURES.names() and default


def _is_measurable(method: str) -> bool:
    """Return whether measures of the merge can take this one: it is a single model, of weights alone."""
    kind = METHODS.get(method)
    return not kind.calibration and not issubclass(kind, PerTaskMethod)


def _values(name: str, options: MergeOptions, parameter: str, tasks: int) -> list[float]:
    """Return the values of a method's parameter to choose from; of one that counts, whole numbers."""
    kind = METHODS.get(name)
    counts = any(info.name == parameter and info.type == "int" for info in kind.parameter_infos())
    values = [int(value) if counts and value.is_integer() else value for value in options.choices[parameter]]
    try:
        for value in values:
            if problems := kind.build({**options.parameters, parameter: value}).problems(tasks):
                raise UserError(*problems)
    except UserError as error:
        raise UserError(*(f"choices.{parameter}: {problem}" for problem in error.problems)) from None
    return values


def _through_yaml(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what a file would hold: lists for tuples."""
    through: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_lists(plain), sort_keys=False))
    return through


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
