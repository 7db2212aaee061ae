"""The stages of an experiment: for each cell train, merge, choose, test, measure; each kept on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from saft import calibration, coefficient, tasks
from saft.coefficient import Point, Scaled
from saft.files.checkpoint import staged, write_manifest
from saft.files.locations import folder as local_folder
from saft.files.staging import write_text
from saft.interference.sharpness import Sharpness
from saft.measure import sharpness, weight_interference
from saft.merging.check import check
from saft.merging.config import DataConfig, MergeConfig
from saft.merging.methods import METHODS
from saft.merging.outputs.record import write_merge
from saft.merging.outputs.weights import Weights
from saft.merging.stream import engine
from saft.models import ModelConfig
from saft.progress import Bar
from saft.tasks import BoundTask, Examples, Limits, Splits, TaskModel
from saft.training.fine_tuning import fine_tune, training_cost
from saft.training.options import TrainConfig, TrainingOptions
from saft.training.result import TrainResult, write_trunk
from saft.training.trainer import device_of

__all__ = ["Cell", "Experiment", "Protocol"]


@dataclass(frozen=True)
class Cell:
    """One way to fine-tune all tasks once."""

    regime: str
    arm: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the cell's files are, below the folders `experts`, `merges` and `figures`."""
        return Path(self.regime, self.arm, f"seed{self.seed}")


@dataclass(frozen=True)
class Protocol:
    """What is read of the data, and how: the part of a run's config that decides what a figure means.

    Args:
        regimes: name -> number of training examples of each task; None is all of them.
        validation: at most this many validation examples of each task.
        test: at most this many test examples of each task.
        read_test: False stops before the test split is read.
        sharpness_rho: radius of the worst-case sharpness.
        sharpness_examples: validation examples it is measured on.
        density: of the trimmed measures of interference.
    """

    regimes: dict[str, int | None]
    validation: int | None
    test: int | None
    read_test: bool
    sharpness_rho: float
    sharpness_examples: int
    density: float


class Experiment:
    """What the cells of a run share, and the stages of one cell.

    Every figure is kept in a file of its own as soon as it is known, and a stage whose file exists does
    nothing. So a run can be stopped at any moment and goes on with the same command.

    Args:
        folder: the run's folder.
        model: the pretrained model.
        task_mappings: task name -> its mapping in the config.
        arms: arm -> how it trains.
        protocol: see `Protocol`.
        trainer: further arguments of lightning.Trainer.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        task_mappings: Mapping[str, dict[str, Any]],
        arms: Mapping[str, TrainingOptions],
        protocol: Protocol,
        trainer: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.task_mappings = dict(task_mappings)
        self.arms = arms
        self.protocol = protocol
        self.trainer = trainer
        device = device_of(trainer)
        self.tasks: dict[str, BoundTask] = {
            name: tasks.build(name, mapping, "tasks").bind(name, model, f"tasks.{name}", device)
            for name, mapping in task_mappings.items()
        }
        self.pretrained = model
        # Every checkpoint of the run starts from this copy, so that the names of its tensors are theirs.
        self.model = ModelConfig(str(folder / "base"), model.pooling)
        self.progress = Bar(0)

    # --- data and base -----------------------------------------------------------------------------------

    @functools.lru_cache(maxsize=2)  # noqa: B019 - an experiment lives as long as its process
    def splits(self, regime: str, seed: int) -> dict[str, Splits]:
        """Return every task's data in one regime, as one seed draws it."""
        limits = Limits(
            self.protocol.regimes[regime],
            self.protocol.validation,
            self.protocol.test if self.protocol.read_test else 0,
            seed,
        )
        return {name: task.examples(limits) for name, task in self.tasks.items()}

    def load_base(self) -> nn.Module:
        """Return the pretrained trunk: the copy in `base`, if an earlier call wrote it."""
        return self.trunk((self.folder / "base") if (self.folder / "base").exists() else None)

    def trunk(self, folder: Path | None) -> nn.Module:
        """Return the trunk in a folder, or the pretrained one."""
        return next(iter(self.tasks.values())).load_trunk(folder)

    def write_base(self, trunk: nn.Module) -> None:
        """Write the pretrained trunk, and every task's head as it makes it, to `base`."""
        if (self.folder / "base").exists():
            return
        with staged(self.folder / "base") as folder:
            write_trunk(trunk.state_dict(), local_folder(self.pretrained.path, "model.path"), folder)
            for task in self.tasks.values():
                task.save_head(task.model(trunk), folder)
            declared = {
                name: self.task_mappings[name] | dict(task.resolved) for name, task in self.tasks.items()
            }
            write_manifest(folder, {"kind": "base", "location": self.pretrained.path, "tasks": declared})

    def base_figures(self, regime: str, seed: int) -> dict[str, dict[str, float | None]]:
        """Return the untouched base model's figures, with every task's initial head."""
        self.progress.stage("evaluate the base model")
        folder = self.folder / "base"
        splits = self.splits(regime, seed)

        def compute() -> dict[str, dict[str, float | None]]:
            trunk = self.trunk(folder)
            return {
                name: {
                    "validation": self._score(self._model(trunk, folder, name), name, part.validation),
                    "test": self._test(self._model(trunk, folder, name), name, part),
                }
                for name, part in splits.items()
            }

        figures: dict[str, dict[str, float | None]] = self._remembered("base", compute)
        self.progress.advance(self.evaluation_cost(splits))
        return figures

    # --- one cell ----------------------------------------------------------------------------------------

    def train(self, cell: Cell, name: str) -> TrainResult:
        """Fine-tune on one task, or return what an earlier call has left."""
        self.progress.stage(f"train {cell.arm} on {name} ({_where(cell)})")
        out = self.folder / "experts" / cell.path / name
        options = self.arms[cell.arm]
        if out.exists():
            self.progress.advance(training_cost(options))
            return TrainResult.read(out)
        config = TrainConfig(
            model=self.model,
            task=self.task_mappings[name],
            out=str(out),
            name=name,
            training=options,
            seed=cell.seed,
            train_examples=self.protocol.regimes[cell.regime],
            validation_examples=self.protocol.validation,
            trainer=self.trainer,
        )
        return fine_tune(config, splits=self.splits(cell.regime, cell.seed)[name], progress=self.progress)

    def experts(self, cell: Cell, results: Mapping[str, TrainResult]) -> dict[str, dict[str, Any]]:
        """Return each expert's figures: validation, test, steps, sharpness."""
        self.progress.stage(f"test the experts of {cell.arm} ({_where(cell)})")
        splits = self.splits(cell.regime, cell.seed)

        def compute() -> dict[str, dict[str, Any]]:
            figures = {}
            for name, result in results.items():
                classifier = self._model(self.trunk(result.folder), result.folder, name)
                sharp = sharpness(
                    self.tasks[name],
                    classifier,
                    splits[name].validation,
                    Sharpness(self.protocol.sharpness_rho),
                    self.protocol.sharpness_examples,
                )
                figures[name] = {
                    "validation": result.validation.value,
                    "test": self._test(classifier, name, splits[name]),
                    "steps": result.steps,
                    "sharpness": sharp,
                }
            return figures

        figures: dict[str, dict[str, Any]] = self._remembered(f"{cell.path}/experts", compute)
        self.progress.advance(self.test_cost(splits))
        return figures

    def interference(self, cell: Cell, results: Mapping[str, TrainResult]) -> dict[str, Any]:
        """Return the interference of the cell's task vectors."""
        self.progress.stage(f"measure the interference of {cell.arm} ({_where(cell)})")

        def compute() -> dict[str, Any]:
            folders = {name: str(result.folder) for name, result in results.items()}
            found = weight_interference(self.model.path, folders, self.protocol.density)
            return dataclasses.asdict(found)

        figures: dict[str, Any] = self._remembered(f"{cell.path}/interference", compute)
        return figures

    def merge(
        self,
        cell: Cell,
        results: Mapping[str, TrainResult],
        method: str,
        parameters: dict[str, Any],
        grid: list[float],
    ) -> dict[str, Any]:
        """Merge the cell's experts, choose the coefficient on validation data, write the merge, and test it.

        The task vectors are merged once; every coefficient of the grid scales the result. One pass over the
        validation examples of all tasks is made per coefficient.
        """
        splits = self.splits(cell.regime, cell.seed)
        out = self.folder / "merges" / cell.path / method
        recipe = MergeConfig(
            method=method,
            base=self.model.path,
            models={name: str(result.folder) for name, result in results.items()},
            parameters=parameters,
            data=self._data(method),
        )

        def compute() -> dict[str, Any]:
            with calibration.collected(check(recipe)) as ready:
                scaled = Scaled(self.trunk(self.folder / "base"), dict(engine.stream(ready)))
            curve = []
            for value in grid:
                self.progress.stage(f"{method} of {cell.arm}, coefficient {value:g} ({_where(cell)})")
                trunk = scaled.by(value)
                figures = {
                    name: self._score(self._model(trunk, results[name].folder, name), name, part.validation)
                    for name, part in splits.items()
                }
                curve.append(Point(value, figures))
                self.progress.advance(self.validation_cost(splits))
            chosen = coefficient.shared(
                curve, {name: result.validation.value for name, result in results.items()}
            )
            each = coefficient.per_task(curve)
            self.progress.stage(f"test {method} of {cell.arm} ({_where(cell)})")
            shutil.rmtree(out, ignore_errors=True)
            plan = check(dataclasses.replace(recipe, scaling=chosen), out)
            plan = dataclasses.replace(plan, collected=ready.collected)  # for the record
            write_merge(plan, out, output=Weights(scaled.task_vector.items()))
            trunk = self.trunk(out)
            shared_test = {
                name: self._test(self._model(trunk, out, name), name, part) for name, part in splits.items()
            }
            each_test = {}
            for name, part in splits.items():
                if each[name] == chosen:
                    each_test[name] = shared_test[name]
                else:
                    other = self._model(scaled.by(each[name]), results[name].folder, name)
                    each_test[name] = self._test(other, name, part)
            return {
                "parameters": parameters,
                "curve": [dataclasses.asdict(point) for point in curve],
                "shared": {"coefficient": chosen, "test": shared_test},
                "per_task": {"coefficients": each, "test": each_test},
            }

        known = self._file(f"{cell.path}/{method}").exists()
        figures: dict[str, Any] = self._remembered(f"{cell.path}/{method}", compute)
        self.progress.advance(self.merge_cost(splits, grid) if known else 2 * self.test_cost(splits))
        return figures

    # --- costs, in examples passed forward ---------------------------------------------------------------

    def validation_cost(self, splits: Mapping[str, Splits]) -> float:
        """Return the cost of one pass over every task's validation examples."""
        return float(sum(len(part.validation) for part in splits.values()))

    def test_cost(self, splits: Mapping[str, Splits]) -> float:
        """Return the cost of one pass over every task's test examples, if they are read."""
        return float(sum(len(part.test) for part in splits.values())) if self.protocol.read_test else 0.0

    def evaluation_cost(self, splits: Mapping[str, Splits]) -> float:
        """Return the cost of evaluating one model on everything."""
        return self.validation_cost(splits) + self.test_cost(splits)

    def merge_cost(self, splits: Mapping[str, Splits], grid: list[float]) -> float:
        """Return the cost of `merge`; up to one more test pass goes to coefficients per task."""
        return len(grid) * self.validation_cost(splits) + 2 * self.test_cost(splits)

    def _data(self, method: str) -> DataConfig:
        """Return what a method reads: validation examples, where it reads any, and no more than the run."""
        default = DataConfig()
        if not METHODS.get(method).calibration or self.protocol.validation is None:
            return default
        return DataConfig(examples=min(self.protocol.validation, default.examples))

    def _model(self, trunk: nn.Module, folder: Path, name: str) -> TaskModel:
        return self.tasks[name].model(trunk, folder)

    def _score(self, model: TaskModel, name: str, examples: Examples) -> float:
        return self.tasks[name].score(model, examples).value

    def _test(self, classifier: TaskModel, name: str, splits: Splits) -> float | None:
        return self._score(classifier, name, splits.test) if self.protocol.read_test else None

    def _file(self, name: str) -> Path:
        return self.folder / "figures" / f"{name}.json"

    def _remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what the file holds, computing and writing it first if it is not there.

        What is returned was always read from the file, so a first and a resumed run see the same values.
        """
        file = self._file(name)
        if not file.exists():
            write_text(file, json.dumps(compute(), indent=1) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))


def _where(cell: Cell) -> str:
    return f"{cell.regime}, seed {cell.seed}"
