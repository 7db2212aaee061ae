"""`saft measure`: how much a set of checkpoints interfere, and how sharp each one's minimum is."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from saft import tasks
from saft.errors import UserError, did_you_mean
from saft.evaluate import with_head
from saft.files.staging import write_text
from saft.interference.sharpness import WorstCaseSharpness, worst_case_sharpness
from saft.interference.weights import WeightInterference, WeightMeasurement
from saft.merging.check import check
from saft.merging.config import MergeConfig
from saft.merging.stream import engine
from saft.models import Classifier, ModelConfig, Pooling, load_tokenizer, load_trunk
from saft.progress import bar
from saft.tasks import Examples, Limits, Task

__all__ = ["MeasureConfig", "MeasureResult", "measure", "sharpness", "weight_interference"]


@dataclass(frozen=True)
class MeasureConfig:
    """What `saft measure` needs."""

    base: str
    """The base model: a folder, a hub id, or package://..."""
    checkpoints: list[str] | dict[str, str]
    """The fine-tuned checkpoints; as a mapping, task name -> folder."""
    density: float = 0.2
    """Measure a second time after trimming each task vector to this fraction of its entries, in (0, 1]."""
    exclude: list[str] = field(default_factory=list)
    """Globs of tensor names to leave out."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task name -> task, as in `saft run`; with it, each checkpoint's sharpness on its task is measured."""
    pooling: Pooling = "mean"
    """How token features become one vector; used for the sharpness."""
    rho: float = 0.02
    """Radius of the worst-case sharpness, in weight space; at least 0."""
    examples: int = 64
    """Validation examples that the sharpness is measured on; at least 1."""
    out: str | None = None
    """A JSON file to write the figures to."""


@dataclass(frozen=True)
class MeasureResult:
    """What was measured.

    Args:
        weights: norms, cosines, sign conflicts of the task vectors, whole and trimmed.
        sharpness: task -> worst-case sharpness; empty without `tasks`.
    """

    weights: WeightInterference
    sharpness: dict[str, WorstCaseSharpness]

    def table(self) -> RenderableType:
        """Return one table of the checkpoints and one of their pairs."""
        whole, trimmed = self.weights.whole, self.weights.trimmed or {}
        alone = Table("checkpoint", "norm", "loss", "worst-case increase", title="task vectors")
        for row, name in enumerate(self.weights.tasks):
            found = self.sharpness.get(name)
            figures = ("", "") if found is None else (f"{found.loss:.4f}", f"{found.worst_case:.4f}")
            alone.add_row(name, f"{whole['norm']['l2'][row]:.4f}", *figures)
        pairs = Table("pair", "cosine", "cosine, trimmed", title="pairs")
        for (i, first), (j, second) in itertools.combinations(enumerate(self.weights.tasks), 2):
            pairs.add_row(
                f"{first} - {second}", f"{whole['cosine'][i][j]:.4f}", f"{trimmed['cosine'][i][j]:.4f}"
            )
        conflict = Table("sign conflict", "rate", "weighted by magnitude", title="all together")
        for label, values in (("whole", whole), ("trimmed", trimmed)):
            rate, weighted = values["sign_conflict"]["rate"], values["sign_conflict"]["weighted"]
            conflict.add_row(label, _percent(rate), _percent(weighted))
        return Group(alone, pairs, conflict)


def measure(config: MeasureConfig) -> MeasureResult:
    """Measure how much checkpoints interfere.

    Args:
        config: see `MeasureConfig`.

    Returns:
        The figures, which are also written to `config.out`.

    Raises:
        UserError: the checkpoints do not fit each other or the base, or a weight is not finite.
    """
    folders = _named(config.checkpoints)
    for name in config.tasks:
        if name not in folders:
            raise UserError(f"tasks.{name}: there is no checkpoint of this name{did_you_mean(name, folders)}")
    with bar(total=1 + len(config.tasks)) as progress:
        progress.stage("task vectors")
        weights = weight_interference(config.base, folders, config.density, config.exclude)
        progress.advance(1)
        found: dict[str, WorstCaseSharpness] = {}
        for name, mapping in config.tasks.items():
            progress.stage(f"sharpness on {name}")
            task = tasks.build(name, mapping, "tasks")
            model = ModelConfig(folders[name], config.pooling)
            tokenizer = load_tokenizer(model)
            splits = task.load(
                tokenizer, Limits(train=0, validation=config.examples, test=0), f"tasks.{name}"
            )
            trunk, folder = load_trunk(model), Path(folders[name])
            classifier = with_head(trunk, folder, config.pooling, name, task, tokenizer)
            found[name] = sharpness(classifier, task, splits.validation, config.rho, config.examples)
            progress.advance(1)
    result = MeasureResult(weights, found)
    if config.out is not None:
        write_text(Path(config.out), json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    return result


def weight_interference(
    base: str, checkpoints: Mapping[str, str], density: float, exclude: Sequence[str] = ()
) -> WeightInterference:
    """Measure the task vectors of checkpoints, whole and trimmed; one tensor of each is held at a time."""
    plan = check(MergeConfig(method="average", base=base, models=dict(checkpoints), exclude=list(exclude)))

    measurement = WeightMeasurement(list(checkpoints), engine.thresholds(plan, density).squeeze(1))
    for _, block in engine.task_vectors(plan):
        measurement.update(block)
    return measurement.compute()


def sharpness(
    classifier: Classifier, task: Task, examples: Examples, rho: float, count: int
) -> WorstCaseSharpness:
    """Measure the worst-case sharpness of the trunk on the first `count` examples.

    The head stays where it is: interference is a perturbation of the trunk alone.
    """
    batch = examples.collate(list(range(min(count, len(examples)))))
    return worst_case_sharpness(
        classifier,
        lambda part: task.loss(classifier(part.inputs), part.labels),
        [batch],
        rho,
        parameters=[p for p in classifier.trunk.parameters() if p.requires_grad],
    )


def _named(checkpoints: list[str] | dict[str, str]) -> dict[str, str]:
    """Return task name -> folder; a list is named by its folders."""
    if isinstance(checkpoints, dict):
        return checkpoints
    names = [Path(path).name for path in checkpoints]
    return dict(zip(names if len(set(names)) == len(names) else checkpoints, checkpoints, strict=True))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
