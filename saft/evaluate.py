"""`saft evaluate`: any checkpoint folder on any tasks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.table import Table
from torch import nn

from saft import interventions, tasks
from saft.errors import UserError
from saft.files.checkpoint import MANIFEST, holds_parts, read_manifest
from saft.files.locations import folder as local_folder
from saft.files.staging import write_text
from saft.merging.inputs import task_parts
from saft.models import Classifier, ModelConfig, Pooling, load_tokenizer, load_trunk
from saft.progress import bar
from saft.tasks import Examples, Limits, Task, heads

__all__ = ["EvaluateConfig", "EvaluateResult", "evaluate", "score", "with_head"]


@dataclass(frozen=True)
class EvaluateConfig:
    """What `saft evaluate` needs."""

    checkpoints: list[str]
    """Checkpoint folders, as written by `saft train` or `saft merge`, or any model with `tasks` given."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`; empty takes the tasks that the checkpoints were made for."""
    pooling: Pooling | None = None
    """How token features become one vector; null takes what the checkpoint was trained with, else mean."""
    split: Literal["validation", "test"] = "test"
    """The split to measure on."""
    examples: int | None = None
    """At most this many examples of the split; null takes all."""
    batch_size: int = 64
    """Examples per forward pass; the result does not depend on it beyond round-off."""
    device: str = "cpu"
    """The torch device to run on."""
    out: str | None = None
    """A JSON file to write the figures to."""


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of each checkpoint on each task: `figures[checkpoint][task]`, fractions, higher is better."""

    figures: dict[str, dict[str, float]]
    split: str

    def table(self) -> Table:
        """Return the figures in percent, one row a checkpoint."""
        names = list(dict.fromkeys(task for row in self.figures.values() for task in row))
        table = Table("checkpoint", *names, "mean", title=f"{self.split} split, %")
        for checkpoint, row in self.figures.items():
            cells = [f"{100 * row[name]:.1f}" if name in row else "" for name in names]
            table.add_row(checkpoint, *cells, f"{100 * sum(row.values()) / len(row):.1f}")
        return table


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Measure checkpoints on tasks.

    Args:
        config: see `EvaluateConfig`.

    Returns:
        The figures, which are also written to `config.out`.

    Raises:
        UserError: a folder, task, column or head is missing, or a weight is not finite.
    """
    folders = {path: local_folder(path, "checkpoints") for path in config.checkpoints}
    manifests = {
        path: read_manifest(folder) if (folder / MANIFEST).exists() else {}
        for path, folder in folders.items()
    }
    declared = {path: config.tasks or manifest.get("tasks", {}) for path, manifest in manifests.items()}
    for path, mapping in declared.items():
        if not mapping:
            raise UserError(f"{path}: no saft.json says which tasks this model is for; give `tasks:`")
        if holds_parts(folders[path]):
            for name in mapping:
                task_parts.read(folders[path]).part(name)
    figures: dict[str, dict[str, float]] = {}
    with bar(total=sum(len(mapping) for mapping in declared.values())) as progress:
        for path, mapping in declared.items():
            pooling = config.pooling or manifests[path].get("pooling", "mean")
            model = ModelConfig(path=path, pooling=pooling)
            tokenizer = load_tokenizer(model)
            # Every task has a model of its own where a merge has kept a part or interventions per task.
            own = holds_parts(folders[path]) or interventions.are_in(folders[path])
            one = None if own else load_trunk(model).to(config.device)
            figures[path] = {}
            for name, options in mapping.items():
                progress.stage(f"{path} on {name}")
                task = tasks.build(name, options, "tasks")
                limits = Limits(
                    train=0,
                    validation=config.examples if config.split == "validation" else 0,
                    test=config.examples if config.split == "test" else 0,
                )
                examples = getattr(task.load(tokenizer, limits, f"tasks.{name}"), config.split)
                trunk = load_trunk(model, name).to(config.device) if one is None else one
                classifier = with_head(trunk, folders[path], pooling, name, task, tokenizer)
                figures[path][name] = score(classifier, task, examples, config.batch_size)
                progress.advance(1)
    if config.out is not None:
        write_text(Path(config.out), json.dumps(figures, indent=2) + "\n")
    return EvaluateResult(figures, config.split)


@torch.inference_mode()
def score(classifier: Classifier, task: Task, examples: Examples, batch_size: int = 64) -> float:
    """Return the task's metric of a classifier on examples, a fraction.

    Args:
        classifier: put into evaluation mode for the duration, then back.
        task: says which metric.
        examples: one split.
        batch_size: examples per forward pass.
    """
    was_training = classifier.training
    classifier.eval()
    device = next(classifier.trunk.parameters()).device
    metric = task.metric().to(device)
    for batch in examples.batches(batch_size):
        batch = batch.to(device)
        metric.update(classifier(batch.inputs), batch.labels)
    classifier.train(was_training)
    return float(metric.compute())


def with_head(
    trunk: nn.Module, folder: Path, pooling: Pooling, name: str, task: Task, tokenizer: Any
) -> Classifier:
    """Return a classifier with the head that `folder` holds for a task.

    Where there is none, a zero-shot head is made by the trunk itself; a trained one must be there.

    Raises:
        UserError: there is no head, or it does not fit the task.
    """
    classifier = Classifier(trunk, nn.Identity(), pooling)
    head = heads.load(folder, name, len(task.labels))
    if head is None:
        head = task.head_for(classifier, tokenizer)
        if any(parameter.requires_grad for parameter in head.parameters()):
            raise UserError(
                f"{folder}: there is no heads/{name}.safetensors, and the head of this task is a trained one"
            )
    classifier.head = head.to(next(trunk.parameters()).device)
    return classifier
