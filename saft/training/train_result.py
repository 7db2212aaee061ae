"""What a fine-tuning leaves: the checkpoint folder, and what it remembers of itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError
from pydantic.type_adapter import TypeAdapter

from saft import tasks
from saft.errors import UserError
from saft.files.checkpoint import (
    HEADS,
    MANIFEST,
    read_card,
    read_manifest,
    staged,
    weight_files,
    write_card,
    write_manifest,
)
from saft.files.fingerprints import fingerprint
from saft.files.locations import folder as local_folder
from saft.files.locations import is_hub_id
from saft.tasks import BoundTask, Metric, Score, Splits, Task, TaskModel
from saft.tasks.heads import head_file
from saft.training.options import TrainingOptions
from saft.training.other_experts import fingerprints
from saft.training.train_config import TrainConfig

__all__ = ["LOSSES", "TrainResult", "inputs", "versions", "write"]

LOSSES = "logs/metrics.csv"
SECONDS = "logs/seconds.json"  # beside what is the same in every run, since seconds and memory never are


@dataclass(frozen=True)
class TrainResult:
    """What came out of one fine-tuning.

    Args:
        folder: the checkpoint folder.
        validation: the score on the validation split.
        metric: what the score measures.
        steps: the optimizer steps of the weights that were kept.
        seconds: that a penalty at the base and the steps took, interruptions left out; None where it is not
            known.
        device: that trained; None where it is not known.
        memory: the most that it took, bytes; None where it is not known.
    """

    folder: Path
    validation: Score
    metric: Metric
    steps: int
    seconds: float | None = field(default=None, compare=False)
    device: str | None = field(default=None, compare=False)
    memory: float | None = field(default=None, compare=False)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Steps that were taken, and the loss of the last one's batch, as logged; nothing without a log."""
        with suppress(OSError, ValueError, KeyError), (self.folder / LOSSES).open("r", newline="") as file:
            rows = [(int(r["step"]) + 1, float(r["loss"])) for r in csv.DictReader(file) if r["loss"]]
            return [(step, loss) for step, loss in rows if math.isfinite(loss)]
        return []

    def __str__(self) -> str:
        return (
            f"{self.folder}: validation {self.metric.name} {_figure(self)} after {self.steps} steps;"
            f" next: saft evaluate {quote(str(self.folder))}"
        )

    @classmethod
    def read(cls, folder: Path) -> TrainResult:
        """Return the result that a checkpoint folder remembers.

        Raises:
            UserError: it holds no saft.json, or one without the figures of a training.
        """
        metrics: Any = read_manifest(folder).get("metrics")
        timing: Any = {}
        with suppress(OSError, ValueError):
            timing = json.loads((folder / SECONDS).read_text("utf-8"))
        try:
            result = TypeAdapter(cls).validate_python({"folder": folder, **metrics, **timing})
            if math.isfinite(result.validation.value):
                return result
        except (ValidationError, TypeError):
            pass
        raise UserError(f"{folder / MANIFEST}: metrics: is not what a training leaves, but {metrics!r:.200}")


def write(
    model: TaskModel, task: BoundTask, config: TrainConfig, result: TrainResult, splits: Splits,
    read: dict[str, dict[str, str]], logs: Path, overwrite: bool,
) -> None:  # fmt: skip
    """Write the checkpoint folder of a fine-tuning.

    Args:
        model: what was trained.
        task: what it was trained on.
        config: of the training.
        result: what goes into saft.json and the card.
        splits: the data.
        read: fingerprints of what went in; see `inputs`.
        logs: a folder to copy, if it is there.
        overwrite: replace a folder that is there.
    """
    base = local_folder(config.model.path, "model.path")
    trained = config.training.trained
    settings = dataclasses.asdict(config)
    # A head that was taken over decides too: its pooling is the model's.
    resolved = {key: getattr(model, key, value) for key, value in task.resolved.items()}
    for place in ("out", "upload"):  # a folder may be moved; what is written in it stays true
        del settings[place]
    with staged(result.folder, overwrite) as folder:
        trained.save(model.trunk, base, folder, config.model.path)
        task.save_head(model, folder)
        if logs.is_dir():
            shutil.copytree(logs, folder / "logs")
            timing = {"seconds": result.seconds, "device": result.device, "memory": result.memory}
            (folder / SECONDS).write_text(json.dumps(timing) + "\n", "utf-8")
        write_manifest(
            folder,
            {
                "kind": "fine-tuned",
                "config": settings,
                "tasks": {config.name: config.task | resolved},
                "base": {"location": config.model.path, "sha256": read["model"]},
                "data": {"sha256": read["data"]},
                **({"others": {"sha256": read["others"]}} if config.others else {}),
                "metrics": {
                    "validation": dataclasses.asdict(result.validation),
                    "metric": dataclasses.asdict(result.metric),
                    "steps": result.steps,
                },
                "examples": {"train": len(splits.train), "validation": len(splits.validation)},
                "versions": versions(),
            },
        )
        write_card(
            folder,
            f"{config.model.path} fine-tuned on {config.name}",
            f"""Fine-tuned with saft for merging: {result.steps} steps of
{_described(config.training)}, seed {config.seed}.
Validation {result.metric.name}: {_figure(result)}, on {len(splits.validation)} held-out training examples.

{_weights_told(folder, config)}
The whole configuration, and the fingerprints of what went in, are in `saft.json`.""",
            base_model=_base_model_ids(config.model.path, base),
            relation="adapter" if trained.is_adapter else "finetune",
            **({"library_name": "peft"} if trained.is_adapter else {}),
            tags=["saft", *(str(options["name"]) for options in _parts(config.training).values())],
        )


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    import saft

    others = ("torch", "lightning", "transformers", "datasets")
    return {"saft": saft.__version__} | {name: metadata.version(name) for name in others}


def inputs(task: Task, config: TrainConfig) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of what a fine-tuning reads: the model's weights, data, others' experts, a head.

    Raises:
        UserError: one of them is missing.
    """
    base = local_folder(config.model.path, "model.path")
    return {
        "model": {file.name: fingerprint(file) for file in weight_files(base)},
        "data": data_files(task, config),
        "others": fingerprints(config.others),
        "head": {} if config.head_from is None else _head(config.head_from, config.name),
    }


def data_files(task: Task, config: TrainConfig) -> dict[str, str]:
    """Return the SHA-256 of the local files that the examples of a fine-tuning are read from."""
    data = dict(task.files("task"))
    for name, mapping in config.reference.items():
        data |= tasks.build(name, mapping, "reference").files(f"reference.{name}")
    return {location: fingerprint(file) for location, file in data.items()}


def _head(location: str, name: str) -> dict[str, str]:
    file = head_file(local_folder(location, "head_from"), name)
    if not file.is_file():
        raise UserError(
            f"head_from: {location}: has no head of {name} ({HEADS}/{file.name}); leave it out, or name a "
            "checkpoint of this task"
        )
    return {f"{location}/{file.name}": fingerprint(file)}


def _parts(options: TrainingOptions) -> dict[str, dict[str, Any]]:
    """Return what a fine-tuning has beside its optimizer, in words -> its options."""
    parts = {
        "the ascent step": options.perturbation,
        "the penalty": options.penalty,
        "the parametrization": options.parametrization,
        "the average": options.averaging,
    }
    return {words: mapping for words, mapping in parts.items() if mapping is not None}


def _described(options: TrainingOptions) -> str:
    parts = [f"{words} {mapping}" for words, mapping in _parts(options).items()]
    optimizer = "AdamW"
    if options.optimizer is not None:
        own = ", ".join(f"{key} {value}" for key, value in options.optimizer.items() if key != "name")
        optimizer = str(options.optimizer["name"]) + (f" ({own})" if own else "")
    return optimizer + (f" with {', '.join(parts)}" if parts else "")


def _weights_told(folder: Path, config: TrainConfig) -> str:
    name = config.name
    if config.training.trained.is_linear:
        return (
            f"The weights stand for the tangent of the model at its base, {config.model.path}: f(x; w0) + "
            "J (w - w0).\nRead as an ordinary model, as by `saft evaluate`, they give other outputs."
        )
    if config.training.trained.is_adapter:
        head = head_file(folder, name)
        own = f" The task's head is in `{HEADS}/{name}.safetensors`." if head.is_file() else ""
        return f"The folder holds the change from the base as a LoRA adapter, which peft loads.{own}"
    if head_file(folder, name).is_file():
        return f"The weights are the trunk only; the task's head is in `{HEADS}/{name}.safetensors`."
    return "The weights are those of the whole model."


def _figure(result: TrainResult) -> str:
    return f"{result.metric.format(result.validation.value)} {result.metric.unit}".strip()


def _base_model_ids(location: str, folder: Path) -> list[str]:
    """Return the hub id of the base: as given, or as the folder's own card names it."""
    if is_hub_id(location):
        return [location]
    declared = read_card(folder).get("base_model", [])
    return [declared] if isinstance(declared, str) else list(declared)
