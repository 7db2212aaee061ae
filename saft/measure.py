"""`saft measure`: how much a set of checkpoints interfere, and how sharp each one's minimum is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from saft import tasks
from saft.errors import UserError, abbreviated, did_you_mean
from saft.files.checkpoint import MANIFEST
from saft.files.locations import by_name
from saft.files.locations import folder as local_folder
from saft.files.staging import refuse_file, write_text
from saft.interference.loss import LossMeasure, loss_measures
from saft.interference.quantity import Measured, Quantity, quantities_of
from saft.interference.weights import InterferenceAccumulator, InterferenceResult
from saft.measure_config import MeasureConfig
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.stream import engine
from saft.model_config import ModelConfig
from saft.progress import bar, note
from saft.report.measured import measured_tables
from saft.report.results import plain
from saft.tasks import BoundTask, Examples, Limits, TaskModel

__all__ = ["MeasureConfig", "MeasureResult", "measure", "sharpness", "weight_interference"]


@dataclass(frozen=True)
class MeasureResult:
    """What was measured.

    Args:
        measured: quantity -> number, checkpoint -> number, or checkpoint -> checkpoint -> number.
        quantities: what each of them is.
    """

    measured: dict[str, Measured]
    quantities: dict[str, Quantity]

    def table(self) -> RenderableType:
        """Return tables of each checkpoint, of the pairs, and of all together."""
        return measured_tables(self.measured, self.quantities)


def measure(config: MeasureConfig) -> MeasureResult:
    """Measure how much checkpoints interfere, and how sharp each one's minimum is.

    Args:
        config: see `MeasureConfig`.

    Returns:
        The figures, which are also written to `config.out`.

    Raises:
        UserError: the checkpoints do not fit each other or the base, or a weight is not finite.
    """
    if config.out is not None:
        refuse_file(Path(config.out))
    paths = by_name(config.checkpoints)
    for name in config.tasks:
        if name not in paths:
            raise UserError(f"tasks.{name}: there is no checkpoint of this name{did_you_mean(name, paths)}")
    folders = {name: local_folder(path, f"checkpoints.{name}") for name, path in paths.items()}
    for alike in _same_folder(folders):
        note(f"{abbreviated(alike)} are one and the same checkpoint, so that their cosine is 1")
    bound = {name: task for name, folder in folders.items() if (task := _bound(config, name, folder))}
    with bar(total=1 + len(bound)) as progress:
        progress.stage("task vectors")
        weights = weight_interference(config.base, paths, config.density, config.exclude)
        progress.advance(1)
        measures = loss_measures(rho=config.rho)
        of_loss: dict[str, dict[str, float]] = {}
        for name, task in bound.items():
            progress.stage(f"sharpness of {name}")
            examples = task.examples(Limits(train=0, validation=config.examples, test=0)).validation
            model = task.model(task.load_trunk(), folders[name])
            values = sharpness(task, model, examples, measures, config.examples)
            for quantity, value in values.items():
                of_loss.setdefault(quantity, {})[name] = value
            progress.advance(1)
    quantities = dict(weights.quantities)
    if of_loss:
        quantities |= quantities_of(measures)
    result = MeasureResult({**weights.measured, **of_loss}, quantities)
    if config.out is not None:
        write_text(Path(config.out), json.dumps(plain(dataclasses.asdict(result)), indent=2) + "\n")
    return result


def weight_interference(
    base: str, checkpoints: Mapping[str, str], density: float, exclude: Sequence[str] = ()
) -> InterferenceResult:
    """Measure the task vectors of checkpoints, whole and trimmed; one tensor of each is held at a time.

    Args:
        base: the base model: a folder, a hub id, or package://.
        checkpoints: name -> checkpoint.
        density: fraction of entries that trimming keeps, in (0, 1].
        exclude: globs of tensor names that are not measured.

    Raises:
        UserError: the checkpoints do not fit each other or the base, or a weight is not finite.
    """
    plan = check(MergeConfig(method="average", base=base, models=dict(checkpoints), exclude=list(exclude)))
    accumulator = InterferenceAccumulator(list(checkpoints), engine.thresholds(plan, density).squeeze(1))
    for _, block in engine.task_vectors(plan):
        accumulator.update(block)
    return accumulator.compute()


def sharpness(
    task: BoundTask, model: TaskModel, examples: Examples, measures: Sequence[LossMeasure], count: int
) -> dict[str, float]:
    """Measure the loss around the trunk's weights on the first `count` examples, on the model's device.

    The head stays where it is: interference is a perturbation of the trunk only.

    Args:
        task: says the loss.
        model: trunk and head.
        examples: one split; without examples there is nothing to measure.
        measures: what is measured of the loss; see `loss_measures`.
        count: examples that are used, in one batch; at least 1.

    Returns:
        Each quantity of the measures.
    """
    batch = examples.collate(list(range(min(count, len(examples)))))
    batches = [batch.to(next(model.trunk.parameters()).device)]
    moved = [p for p in model.trunk.parameters() if p.requires_grad]
    measured: dict[str, float] = {}
    for measure in measures:
        measured |= measure.values(model, lambda part: task.loss(model, part), batches, moved)
    return measured


def _same_folder(folders: Mapping[str, Path]) -> list[list[str]]:
    """Return the names of the checkpoints that lie in one folder, where there are several."""
    names: dict[Path, list[str]] = {}
    for name, folder in folders.items():
        names.setdefault(folder.resolve(), []).append(name)
    return [alike for alike in names.values() if len(alike) > 1]


def _bound(config: MeasureConfig, name: str, folder: Path) -> BoundTask | None:
    """Return the task of a checkpoint: from the config, or else from its saft.json; None without one."""
    task_name, where, mapping = name, "tasks", config.tasks.get(name)
    if mapping is None:
        declared = tasks.declared_in(folder)
        if len(declared) != 1 and name not in declared:
            why = f"{len(declared)} tasks, none of them called '{name}'" if declared else "no task"
            note(f"no sharpness of {name}: {folder}/{MANIFEST} says {why}; give tasks: {{{name}: {{...}}}}")
            return None
        task_name = name if name in declared else next(iter(declared))
        mapping, where = dict(declared[task_name]), f"{folder}/{MANIFEST}: tasks"
    task, place = tasks.build(task_name, mapping, where, trusted=where == "tasks"), f"{where}.{task_name}"
    try:
        task.check(place)
        return task.bind(task_name, ModelConfig(str(folder)), place, config.device)
    except UserError as error:
        if where == "tasks":
            raise
        note(f"no sharpness of {name}: {error}")
        return None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
