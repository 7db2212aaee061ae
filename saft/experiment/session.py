"""What the cells of an experiment share in one process: the tasks, their data, the base."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from saft import tasks
from saft.calibration import without_labels
from saft.errors import UserError, collecting
from saft.experiment.arm_choice import ArmChoice
from saft.experiment.cells import Cell
from saft.experiment.folder import ExperimentFolder
from saft.experiment.given_experts import check_experts, content, expert_folders
from saft.experiment.growth import Foundations, copied, files_of
from saft.experiment.resolve import Resolved, resolve
from saft.files.checkpoint import staged, write_manifest
from saft.files.locations import folder as local_folder
from saft.merging.inputs.peft_adapter import is_adapter
from saft.merging.methods import METHODS
from saft.model_config import ModelConfig
from saft.parametrizations.full import Full
from saft.penalties import Unlabelled, penalty
from saft.report.cell_result import Split
from saft.tasks import BoundTask, Examples, Limits, Metric, Outcomes, Score, Splits, Task, TaskModel
from saft.tasks.bound_with_head import BoundWithHead
from saft.tasks.heads import head_file
from saft.training.precision import computing
from saft.training.trainer import device_of

__all__ = ["Session", "open_session"]


class Session:
    """An experiment at work in one process.

    Args:
        resolved: the experiment.
        folder: its folder.
        elsewhere: whether its cells are computed on other machines, so that this one may lack the device.

    Raises:
        UserError: the model, a task, or a file of its data is missing or does not fit.
    """

    def __init__(self, resolved: Resolved, folder: ExperimentFolder, elsewhere: bool = False) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.folder = folder
        self.device = device_of(self.config.trainer, elsewhere)
        self.base = ModelConfig(str(folder.base), self.config.model.pooling)
        declared = {name: tasks.build(name, keys, "tasks") for name, keys in self.config.tasks.items()}
        reference = {
            name: tasks.build(name, keys, "reference") for name, keys in self.config.reference.items()
        }
        held_out = {name: tasks.build(name, keys, "held_out") for name, keys in self.config.held_out.items()}
        read = {"tasks": declared, "reference": reference, "held_out": held_out}
        copy = copied(folder.base)
        files = files_of(self.config.model.path, copy, read)
        is_copied = copy is not None and copy["sha256"] == files["model"]
        start = self.origin = self.base if is_copied else self.config.model
        self.reference: dict[str, BoundTask] = {
            name: task.bind(name, start, f"reference.{name}", self.device) for name, task in reference.items()
        }
        self.tasks: dict[str, BoundTask] = {
            name: task.bind(name, start, f"tasks.{name}", self.device) for name, task in declared.items()
        }
        self.held_out: dict[str, BoundTask] = {
            name: task.bind(name, start, f"held_out.{name}", self.device) for name, task in held_out.items()
        }
        tasks.check_one_trunk({"tasks": self.tasks, "reference": self.reference, "held_out": self.held_out})
        _refuse_untrained(held_out)
        for name, options in resolved.arms.items():
            if options.penalty is not None:
                where = f"arms.{resolved.trials[name].arm}.penalty"
                penalty(**options.penalty).check_tasks(self.reference | self.tasks, where)
        problems = [
            f"merges.{name}: {problem}"
            for name, options in resolved.merges.items()
            for problem in without_labels(METHODS.get(options.method_of(name)).calibration, declared)
        ]
        if problems:
            raise UserError(*problems)
        given = {arm: of for arm in self.config.arms if (of := self.config.given(arm)) is not None}
        self._given = expert_folders(given)
        for arm, experts in self._given.items():
            merges = {resolved.method(name): options.parameters for name, options in resolved.merges.items()}
            check_experts(arm, experts, start.path, declared, merges)
            _refuse_other_heads(arm, experts, self.tasks)
        contents = {
            f"arms.{arm}.experts.{task}": {"its weights": content(at)}
            for arm, experts in self._given.items()
            for task, at in experts.items()
        }
        self.foundations = Foundations(resolved, {**files, **contents})
        self.arm_choices: dict[tuple[str, str], ArmChoice] = {}  # once they are known
        self.arm_draws: dict[tuple[str, str], list[str]] = {}  # trials of a search, so far
        self.outdated: set[str] = set()  # cells whose arm has changed since it failed

    @property
    def metrics(self) -> dict[str, Metric]:
        """Task -> what its scores are."""
        return {name: task.metric for name, task in self.tasks.items()}

    @functools.cached_property
    def scored(self) -> dict[str, BoundTask]:
        """Every task that models are scored on: those that are trained on, and those that are held out."""
        return self.tasks | self.held_out

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a session lives as long as its process
    def splits(self, train_size: str, seed: int) -> Mapping[str, Splits]:
        """Return every task's data at one train size, as one seed draws it."""
        limits = Limits(
            self.config.regimes[train_size],
            self.config.validation_examples,
            self.config.test_examples if self.config.test else 0,
            seed,
        )
        return {name: task.examples(limits) for name, task in self.tasks.items()}

    @functools.cached_property
    def held_out_splits(self) -> Mapping[str, Splits]:
        """The data of each task that is held out, no training examples among them."""
        test = self.config.test_examples if self.config.test else 0
        limits = Limits(train=0, validation=self.config.validation_examples, test=test)
        return {name: task.examples(limits) for name, task in self.held_out.items()}

    def inputs(self, cell: Cell, task: str) -> dict[str, Unlabelled]:
        """Return the training inputs that the penalty of an expert reads, task -> inputs without labels."""
        if self.resolved.reads(cell.arm) == "reference":
            return self._reference_inputs(cell.train_size, cell.seed)
        splits = self.splits(cell.train_size, cell.seed)
        return {
            name: Unlabelled.of(self.tasks[name], splits[name].train)
            for name in self.resolved.reference(cell.arm, task)
        }

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _reference_inputs(self, train_size: str, seed: int) -> dict[str, Unlabelled]:
        limits = Limits(self.config.regimes[train_size], validation=0, test=0, seed=seed)
        return {
            name: Unlabelled.of(task, task.examples(limits).train) for name, task in self.reference.items()
        }

    @functools.cached_property
    def train_counts(self) -> dict[str, dict[str, int]]:
        """Train size -> task -> number of training examples, the same for every seed."""
        seed = self.config.seeds[0]
        return {
            size: {name: len(part.train) for name, part in self.splits(size, seed).items()}
            for size in self.config.regimes
        }

    @functools.cached_property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Task -> split -> number of validation and test examples, the same in every cell."""
        first = self.resolved.cells[0]
        parts = self.splits(first.train_size, first.seed)
        return {name: _sizes(part) for name, part in parts.items()}

    @functools.cached_property
    def held_out_sizes(self) -> dict[str, dict[str, int]]:
        """What `sizes` says, of the tasks that are held out."""
        return {name: _sizes(part) for name, part in self.held_out_splits.items()}

    def examples_of(self, split: str) -> float:
        """Return the examples of a split, of all trained tasks together: what one pass over it costs."""
        return float(sum(sizes[split] for sizes in self.sizes.values()))

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def model(self, task: str, folder: Path, cell: Cell | None = None) -> TaskModel:
        """Load the model of a task from a checkpoint folder; the last one is held.

        Args:
            task: the task's name.
            folder: the checkpoint folder, whose head is taken too.
            cell: that the checkpoint is an expert of; None for the base.
        """
        head_from = folder if cell is None else self.head_folder(cell, task)
        return self.scored[task].model(self.trunk(folder, cell), head_from=head_from)

    def score(self, task: str, model: TaskModel, examples: Examples) -> Score:
        """Return a model's score on examples of a task, NaN of none; see `outcomes`.

        Args:
            task: the task's name.
            model: on the session's device.
            examples: of one split.
        """
        if not len(examples):
            return Score(math.nan, None, 0)
        return self.outcomes(task, model, examples).score()

    def outcomes(self, task: str, model: TaskModel, examples: Examples) -> Outcomes:
        """Return what a model makes of each example of a task, computed in the precision of the trainings.

        Args:
            task: the task's name.
            model: on the session's device.
            examples: of one split.
        """
        with computing(self.config.trainer.get("precision"), self.device):
            return self.scored[task].outcomes(model, examples)

    def score_held_out(self, task: str, trunk: nn.Module, split: Split) -> Score:
        """Return the score of a trunk on a task that is held out, with the head that the base gives it.

        Args:
            task: its name.
            trunk: of the base, an expert or a merge.
            split: whose examples.
        """
        model = self.held_out[task].model(trunk, head_from=self.folder.base)
        return self.score(task, model, getattr(self.held_out_splits[task], split))

    def expert(self, cell: Cell, task: str) -> Path:
        """Return the folder of an expert: where it is given, or where it is trained, if it is there yet."""
        if self.resolved.is_given(cell.arm):
            return self._given[cell.arm][task]
        return self.folder.expert(cell, task)

    def head_folder(self, cell: Cell, task: str) -> Path:
        """Return the folder whose head goes with an expert: its own, or the base's where one that is given
        has none."""
        folder = self.expert(cell, task)
        has_none = self.resolved.is_given(cell.arm) and not head_file(folder, task).is_file()
        return self.folder.base if has_none else folder

    def start(self, cell: Cell) -> Path:
        """Return the folder that a cell's experts start from: the base, or the merge of its first round."""
        merged = self.resolved.arms[cell.arm].start is not None
        return self.folder.start(cell) if merged else self.folder.base

    def trunk(self, folder: Path | None = None, cell: Cell | None = None) -> nn.Module:
        """Load a trunk of the experiment: of a checkpoint folder, or what a cell's experts start from.

        Args:
            folder: the checkpoint folder; None for the start.
            cell: that the checkpoint is an expert of, linearized where its arm is; None for the base's.
        """
        start = self.folder.base if cell is None else self.start(cell)
        if cell is not None and (trained := self.resolved.arms[cell.arm].trained).is_linear:
            trunk = self._trunk(str(start), held=True)
            trained.wrap(trunk, lambda count: iter(()))
            if folder is not None:
                trunk.load_state_dict(self._trunk(str(folder)).state_dict())
            return trunk
        if folder is not None and is_adapter(folder):  # of this start, wherever the experiment lies by now
            return self._trunk(f"{start}+{folder}")
        return self._trunk(str(folder or start), held=folder is None)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def expert_trunk(self, folder: Path, cell: Cell) -> nn.Module:
        """Load the trunk of an expert; the last one is held, since several tasks may be asked of it.

        Args:
            folder: the expert's.
            cell: that it is of.
        """
        return self.trunk(folder, cell)

    def _trunk(self, location: str, held: bool = False) -> nn.Module:
        return next(iter(self.tasks.values())).load_trunk(location, held)

    def write_base(self) -> None:
        """Write the pretrained trunk and every task's first head to `base`, unless they are there.

        A run that was ended before it had a figure may have left those of another config.
        """
        base, declared = self.folder.base, self.config.tasks | self.config.held_out
        manifest: dict[str, Any] = {
            "kind": "base",
            "location": self.config.model.path,
            "tasks": json.loads(json.dumps(declared)),
            "pooling": self.config.model.pooling,
            "sha256": dict(self.foundations.files["model"]),
        }
        if (known := copied(base)) is not None:
            known["tasks"] = {name: keys for name, keys in known["tasks"].items() if name in declared}
            if all(known[key] == value for key, value in manifest.items()):
                return
        source = local_folder(self.origin.path, "model.path")
        trunk = next(iter(self.tasks.values())).load_trunk(source)
        with staged(base, overwrite=True) as folder:
            Full().save(trunk, source, folder, self.config.model.path)
            for task in self.scored.values():
                task.save_head(task.model(trunk), folder)
            write_manifest(folder, manifest)


def _sizes(part: Splits) -> dict[str, int]:
    return {"validation": len(part.validation), "test": len(part.test)}


def _refuse_untrained(held_out: Mapping[str, Task]) -> None:
    """Refuse a task that is held out and whose head only a training would make."""
    problems = [
        f"held_out.{name}: has a head that is trained, and a task that is held out is not trained on; take a "
        "frozen head (zero_shot, prototype), or list it under `tasks`"
        for name, task in held_out.items()
        if task.trained_head
    ]
    if problems:
        raise UserError(*problems)


def _refuse_other_heads(arm: str, experts: Mapping[str, Path], bound: Mapping[str, BoundTask]) -> None:
    """Refuse given experts whose folders hold heads for other labels than the tasks', or in another order."""
    problems: list[str] = []
    for name, task in bound.items():
        if isinstance(task, BoundWithHead):
            with collecting(problems, f"arms.{arm}.experts.{name}: "):
                task.stored_head(experts[name])
    if problems:
        raise UserError(*problems)


def open_session(folder: str | Path) -> Session:
    """Return the session of an experiment that `saft run` has begun, from nothing but its folder.

    Args:
        folder: with config.yaml and `base`.

    Raises:
        UserError: there is none, or its data are no longer there.
    """
    place = ExperimentFolder(folder)
    return Session(resolve(place.read_config()), place)
