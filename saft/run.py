"""`saft run`: a grid of (task x arm x seed), then merges, then measures, then the report; resumable."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import RenderableType

from saft import config as configs
from saft import report
from saft.errors import UserError
from saft.experiment import Cell, Experiment, Protocol
from saft.files.staging import write_text
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.models import ModelConfig
from saft.progress import bar, waiting
from saft.report.format_1 import typed
from saft.training.fine_tuning import training_cost
from saft.training.options import TrainingOptions
from saft.training.result import versions

__all__ = ["MergeOptions", "RunConfig", "RunResult", "plan", "run"]


@configs.checked
@dataclass(frozen=True)
class MergeOptions:
    """How a method is tried: its parameters, and the scaling coefficients to choose from."""

    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method; see `saft methods NAME`."""
    scaling: list[configs.FiniteFloat] = field(default_factory=list)
    """Scaling coefficients to choose from on validation data; empty takes the method's own grid."""


@configs.checked
@dataclass(frozen=True)
class RunConfig:
    """What `saft run` needs."""

    out: str
    """The folder of the experiment."""
    model: ModelConfig
    """The pretrained model."""
    tasks: dict[str, dict[str, Any]]
    """Task name -> `kind` and the keys of that kind; see saft/tasks."""
    arms: dict[str, dict[str, Any]]
    """Arm -> what it changes of `training`, and `description`, its words in the report."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """How every arm trains, unless it says otherwise."""
    merges: dict[str, MergeOptions] = field(
        default_factory=lambda: {
            name: MergeOptions() for name in ("average", "task_arithmetic", "ties", "pcb")
        }
    )
    """Method -> its parameters and the coefficients to choose from."""
    seeds: configs.Seeds = field(default_factory=lambda: [0])
    """Each seed draws the training examples, their order, and dropout anew."""
    regimes: dict[str, configs.Count | None] = field(default_factory=lambda: {"all": None})
    """Regime -> training examples of each task; null is all. Every arm and seed is run in each."""
    validation_examples: configs.Count | None = None
    """At most this many validation examples of each task."""
    test_examples: configs.Count | None = None
    """At most this many test examples of each task; null reads the whole test split."""
    test: bool = True
    """Read the test split at the end; false stops before, for choosing rho or steps on validation data."""
    density: configs.Fraction = 0.2
    """Fraction of each task vector kept by the trimmed measures of interference, in (0, 1]."""
    sharpness_rho: configs.NonNegative = 0.02
    """Radius of the worst-case sharpness of each expert, in weight space."""
    sharpness_examples: configs.Count = 64
    """Validation examples that the sharpness is measured on."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.Trainer: accelerator, devices, precision ..."""

    def __post_init__(self) -> None:
        for name in ("tasks", "arms", "merges", "seeds", "regimes"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must not be empty")
        for kind, names in (("tasks", self.tasks), ("arms", self.arms), ("regimes", self.regimes)):
            for name in names:
                if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
                    raise ValueError(
                        f"{kind}: '{name}' names a folder; use letters, digits, '.', '_' and '-' alone"
                    )


@dataclass(frozen=True)
class RunResult:
    """What came out of a run: its folder, and everything in results.json."""

    folder: Path
    results: dict[str, Any]

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    def table(self) -> RenderableType:
        """Return the table that is printed at the end."""
        return report.table(typed(self.results))


def run(config: RunConfig) -> RunResult:
    """Train every task and arm, merge, choose coefficients, test, measure, report.

    Calling it again after an interruption goes on where it stopped and ends with the same numbers.

    Args:
        config: see `RunConfig`.

    Returns:
        The folder and the results, which are also in results.json and report.html there.

    Raises:
        UserError: something in the config does not fit, or the folder holds a run of another config.
    """
    arms, merges = plan(config)
    folder = Path(config.out)
    resolved = _resolved(config, arms, merges)
    _refuse_other(folder, resolved)
    protocol = Protocol(
        regimes=config.regimes,
        validation=config.validation_examples,
        test=config.test_examples,
        read_test=config.test,
        sharpness_rho=config.sharpness_rho,
        sharpness_examples=config.sharpness_examples,
        density=config.density,
    )
    with waiting("loading model and data ..."):
        # Every mistake about model and data is found here, before anything is written.
        experiment = Experiment(folder, config.model, config.tasks, arms, protocol, config.trainer)
        grid = itertools.product(config.seeds, config.regimes, arms)
        cells = [Cell(regime, arm, seed) for seed, regime, arm in grid]
        splits = experiment.splits(cells[0].regime, cells[0].seed)
        trunk = experiment.load_base()
        _keep(folder, resolved)
        experiment.write_base(trunk)
    total = experiment.evaluation_cost(splits) + len(cells) * (
        experiment.test_cost(splits)
        + sum(experiment.merge_cost(splits, merge.scaling) for merge in merges.values())
    )
    total += sum(len(config.tasks) * training_cost(arms[cell.arm]) for cell in cells)
    with bar(total) as experiment.progress:
        base = experiment.base_figures(cells[0].regime, cells[0].seed)
        figures = [_cell(experiment, cell, merges) for cell in cells]
    results = {
        "saft": versions()["saft"],
        "versions": versions(),
        "device": _device(config),
        "config": resolved,
        "protocol": _protocol(config, experiment, cells[0]),
        "arms": {name: _arm(config, name, arms) for name in arms},
        "base": base,
        "cells": figures,
    }
    results = json.loads(json.dumps(results))
    report.write(typed(results), folder)
    return RunResult(folder, results)


def _cell(experiment: Experiment, cell: Cell, merges: dict[str, MergeOptions]) -> dict[str, Any]:
    trained = {name: experiment.train(cell, name) for name in experiment.tasks}
    return {
        **dataclasses.asdict(cell),
        "interference": experiment.interference(cell, trained),
        "merges": {
            method: experiment.merge(cell, trained, method, options.parameters, options.scaling)
            for method, options in merges.items()
        },
        "experts": experiment.experts(cell, trained),
    }


def plan(config: RunConfig) -> tuple[dict[str, TrainingOptions], dict[str, MergeOptions]]:
    """Return how each arm trains and what each method tries, defaults filled in.

    Raises:
        UserError: an arm, a method, or one of their values does not exist.
    """
    return _arms(config), _merges(config)


def _arms(config: RunConfig) -> dict[str, TrainingOptions]:
    """Return each arm's options: the common ones with the arm's own changes."""
    common = dataclasses.asdict(config.training)
    arms = {}
    for name, changes in config.arms.items():
        changes = {key: value for key, value in (changes or {}).items() if key != "description"}
        arms[name] = configs.parse(TrainingOptions, common | changes, "", f"arms.{name}")
    return arms


def _merges(config: RunConfig) -> dict[str, MergeOptions]:
    """Return the merges with their parameters checked and their grids filled in."""
    merges = {}
    for name, options in config.merges.items():
        try:
            method = METHODS.get(name).build(options.parameters)
        except UserError as error:
            raise UserError(*(f"merges.{name}: {problem}" for problem in error.problems)) from None
        if isinstance(method, PerTaskMethod):
            raise UserError(
                f"merges.{name}: keeps a part per task and gives no single model, which `saft run` compares; "
                "leave it out, run `saft merge` on the experts, and `saft evaluate` its folder"
            )
        if method.needs_adapters:
            raise UserError(f"merges.{name}: merges LoRA adapters, but `saft run` trains whole models")
        if len(method.scaling_grid) == 1 and options.scaling not in ([], list(method.scaling_grid)):
            raise UserError(f"merges.{name}.scaling: {name} has no scaling coefficient; leave it out")
        merges[name] = dataclasses.replace(options, scaling=options.scaling or list(method.scaling_grid))
    return merges


def _resolved(
    config: RunConfig, arms: dict[str, TrainingOptions], merges: dict[str, MergeOptions]
) -> dict[str, Any]:
    """Return the whole config as plain values, defaults filled in, without `out`: a folder may be moved."""
    resolved = dataclasses.asdict(config)
    del resolved["out"], resolved["training"]
    resolved["arms"] = {name: dataclasses.asdict(options) for name, options in arms.items()}
    resolved["merges"] = {name: dataclasses.asdict(options) for name, options in merges.items()}
    # Through YAML and back, so that it compares equal to what a file will hold (tuples become lists).
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_plain(resolved), sort_keys=False))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _refuse_other(folder: Path, resolved: dict[str, Any]) -> None:
    """Refuse a folder that holds something else than this run."""
    file = folder / "config.yaml"
    if file.is_file():
        changed = list(configs.differences(yaml.safe_load(file.read_text("utf-8")), resolved))
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            raise UserError(
                f"{folder}: holds a run of another config: {'; '.join(changed[:3])}{more};"
                " choose another `out`, or delete the folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty, and no run of saft; choose another `out`")


def _keep(folder: Path, resolved: dict[str, Any]) -> None:
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / "config.yaml", text)


def _device(config: RunConfig) -> str:
    accelerator = config.trainer.get("accelerator", "auto")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{accelerator if accelerator != 'auto' else 'cpu'}, {torch.get_num_threads()} threads"


def _protocol(config: RunConfig, experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Return what a reader needs to know before any number."""
    described = {}
    for name, part in experiment.splits(cell.regime, cell.seed).items():
        described[name] = {
            "train": len(part.train),
            "validation": len(part.validation),
            "test": len(part.test) if config.test else None,
            "metric": experiment.tasks[name].metric.name,
            **experiment.tasks[name].facts(),
        }
    return {
        "tasks": described,
        "seeds": config.seeds,
        "regimes": {name: {"train_examples": count} for name, count in config.regimes.items()},
        "coefficient": (
            "The scaling coefficient is chosen on the validation examples alone. Shared: one for all tasks,"
            " the one with the best mean normalized validation figure. Per task: for each task the one that"
            " validates best on it, so up to one model per task."
        ),
        "test_reads": (
            "The test split is read once: by the experts and the chosen merges, after every choice was made."
            if config.test
            else "The test split was not read: every figure is of the validation split."
        ),
    }


def _arm(config: RunConfig, name: str, arms: dict[str, TrainingOptions]) -> dict[str, Any]:
    """Return how the report names and sorts an arm."""
    options = arms[name]
    perturbation = options.perturbation or {}
    sharpness_aware = [other for other in arms.values() if other.perturbation]
    if perturbation:
        role = "sharpness_aware"
    elif options.select_steps:
        role = "selected_steps"
    elif any(options.steps == other.steps for other in sharpness_aware):
        role = "equal_steps"
    elif any(options.passes == other.passes for other in sharpness_aware):
        role = "equal_passes"
    else:
        role = "other"
    return {
        "perturbation": perturbation.get("name"),
        "rho": perturbation.get("rho"),
        "steps": options.select_steps or options.steps,
        "passes": options.passes,
        "description": (config.arms[name] or {}).get("description", name),
        "role": role,
    }
