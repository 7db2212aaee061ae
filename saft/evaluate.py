"""`saft evaluate`: any checkpoint folder on any tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from torch import nn

from saft import tasks
from saft.config import as_config
from saft.errors import Unfinished, UserError, collecting, kept_on_interrupt
from saft.evaluate_config import EvaluateConfig
from saft.files.checkpoint import MANIFEST, read_manifest
from saft.files.locations import folder as local_folder
from saft.files.staging import refuse_file
from saft.files.written_last import write_last
from saft.model_config import ModelConfig
from saft.models import is_one_model
from saft.progress import bar, note
from saft.report.columns import Column, score_columns, stacked
from saft.tasks import BoundTask, Limits, Metric, Score, Splits, Task
from saft.training.precision import computing

__all__ = ["EvaluateConfig", "EvaluateResult", "evaluate"]


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of each checkpoint on each task.

    Args:
        scores: checkpoint -> task -> score.
        metrics: task -> what its scores are.
        split: that was measured on.

    Example:
        >>> scores = {"runs/news": {"news": Score(0.813, standard_error=0.02, examples=400)}}
        >>> EvaluateResult(scores, {"news": Metric("accuracy", "%")}, "test").figures
        {'runs/news': {'news': 0.813}}
    """

    scores: dict[str, dict[str, Score]]
    metrics: dict[str, Metric]
    split: str

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Checkpoint -> task -> raw value: an accuracy as a fraction."""
        return {path: {name: score.value for name, score in row.items()} for path, row in self.scores.items()}

    def table(self) -> RenderableType:
        """Return the scores, one row a checkpoint; a mean where a row has every task, and all one metric."""
        columns = score_columns(self.metrics, self.scores)
        metric, *others = self.metrics.values()
        if others and all(other == metric for other in others):
            whole = {path: row for path, row in self.scores.items() if len(row) == len(self.metrics)}
            means = {path: fmean(score.value for score in row.values()) for path, row in whole.items()}
            columns.append(Column("mean", {path: Text(metric.format(mean)) for path, mean in means.items()}))
        return Group(*stacked(f"{self.split} split", "checkpoint", list(self.scores), columns))


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Measure checkpoints on tasks.

    Args:
        config: see `EvaluateConfig`.

    Returns:
        The scores, which are also written to `config.out`.

    Raises:
        UserError: a folder, task, column or head is missing.
        Unfinished: a checkpoint cannot be scored, since a weight is not finite, or `config.out` not be
            written; it holds the other scores.
        Interrupted: by Ctrl-C; it holds the scores of before.

    Example:
        >>> evaluate(EvaluateConfig(checkpoints=["./no-folder"]))
        Traceback (most recent call last):
        saft.errors.UserError: checkpoints: there is no './no-folder' ...
    """
    config = as_config(config, EvaluateConfig)
    if config.out is not None:
        refuse_file(Path(config.out))
    folders = {path: local_folder(path, "checkpoints") for path in config.checkpoints}
    given = _checked(config.tasks, "tasks", trusted=True)
    bound: dict[str, dict[str, BoundTask]] = {}
    problems: list[str] = []
    for path, folder in folders.items():
        with collecting(problems):
            bound[path] = _bound(given or _own(path, folder), path, config.device)
    if problems:
        raise UserError(*problems)
    for path, folder in folders.items():
        if _is_linearized(folder):
            note(f"{path}: was trained linearized; it is evaluated here as the ordinary model of its weights")
    scores: dict[str, dict[str, Score]] = {path: {} for path in folders}
    metrics = _metrics(bound)
    result = EvaluateResult(scores, metrics, config.split)
    total = sum(len(own) for own in bound.values())
    with kept_on_interrupt(lambda: result if any(scores.values()) else None), bar(total=total) as progress:
        for path, folder in folders.items():
            shared: dict[type[BoundTask], nn.Module] = {}
            for name, task in bound[path].items():
                progress.stage(f"{path} on {name}")
                with collecting(problems):  # one that is damaged does not lose what the others score
                    examples = getattr(_splits(task, config), config.split)
                    trunk = shared.get(type(task)) or task.load_trunk()
                    if is_one_model(folder):  # else every task has a trunk of its own
                        shared[type(task)] = trunk
                    model = task.model(trunk, folder)
                    with computing(config.precision, task.device):
                        scores[path][name] = task.score(model, examples, config.batch_size)
                progress.advance(1)
    if not any(scores.values()):
        raise UserError(*dict.fromkeys(problems))
    if config.out is not None:
        with collecting(problems):
            write_last(config.out, json.dumps(_plain(result), indent=2) + "\n", result)
    if problems:
        raise Unfinished(*dict.fromkeys(problems), finished=result)
    return result


def _metrics(bound: Mapping[str, Mapping[str, BoundTask]]) -> dict[str, Metric]:
    """Return task -> its metric, which is the same for all checkpoints."""
    metrics: dict[str, Metric] = {}
    for path, own in bound.items():
        for name, task in own.items():
            if metrics.setdefault(name, task.metric) != task.metric:
                raise UserError(
                    f"{path}: task '{name}' is measured by {task.metric.name}, but in another "
                    f"checkpoint by {metrics[name].name}; give `tasks:`"
                )
    return metrics


Declared = Mapping[str, tuple[Task, str]]
"""Name -> task, and its place for messages."""


def _checked(mappings: Mapping[str, Mapping[str, Any]], where: str, trusted: bool) -> Declared:
    """Return tasks whose keys and data are as they should be, or raise with all that is wrong."""
    declared: dict[str, tuple[Task, str]] = {}
    problems: list[str] = []
    for name, mapping in mappings.items():
        with collecting(problems):
            task, place = tasks.build(name, mapping, where, trusted), f"{where}.{name}"
            task.check(place)
            declared[name] = (task, place)
    if problems:
        raise UserError(*problems)
    return declared


def _own(path: str, folder: Path) -> Declared:
    declared = tasks.declared_in(folder)
    if not declared:
        raise UserError(f"{path}: no saft.json says which tasks this model is for; give `tasks:`")
    return _checked(declared, f"{folder}/{MANIFEST}: tasks", trusted=False)


def _bound(declared: Declared, path: str, device: str) -> dict[str, BoundTask]:
    """Return the tasks bound to one checkpoint, or raise with all that do not fit it."""
    bound: dict[str, BoundTask] = {}
    problems: list[str] = []
    for name, (task, place) in declared.items():
        with collecting(problems):
            bound[name] = task.bind(name, ModelConfig(path), place, device)
    if problems:
        raise UserError(*problems)
    return bound


def _splits(task: BoundTask, config: EvaluateConfig) -> Splits:
    """Return the task's data, of which only the split that is measured has examples."""
    validation, test = (config.examples if config.split == split else 0 for split in ("validation", "test"))
    return task.examples(Limits(train=0, validation=validation, test=test))


def _plain(result: EvaluateResult) -> dict[str, Any]:
    scores = {
        path: {name: dataclasses.asdict(score) for name, score in row.items()}
        for path, row in result.scores.items()
    }
    metrics = {name: dataclasses.asdict(metric) for name, metric in result.metrics.items()}
    return {"split": result.split, "metrics": metrics, "scores": scores}


def _is_linearized(folder: Path) -> bool:
    """Return whether saft.json says that the weights stand for the tangent at the base."""
    settings: Any = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    for key in ("config", "training", "parametrization"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    return isinstance(settings, dict) and settings.get("name") == "linearized"
