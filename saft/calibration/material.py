"""What a collector works with: the tasks' examples, and one model that can be set to any task's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saft import tasks
from saft.errors import UserError, did_you_mean
from saft.evaluate import with_head
from saft.files.checkpoint import MANIFEST, read_manifest
from saft.merging.inputs.source import Source
from saft.merging.plan import Plan
from saft.models import Classifier, ModelConfig, Pooling, load_tokenizer, load_trunk
from saft.tasks import Examples, Limits, Task

__all__ = ["Advance", "Material", "TaskData", "gathered", "model_bytes", "task_data", "tensor_names"]

Advance = Callable[[float], None]
"""Called with the cost of what was done."""


@dataclass(frozen=True)
class TaskData:
    """The task of one model.

    Args:
        name: of its head: heads/NAME.safetensors.
        task: what says how to read its data.
        where: the place in front of every message.
    """

    name: str
    task: Task
    where: str

    def check(self) -> None:
        """Read the table, but take no example of it; the test split is read no further than its columns."""
        self.task.load(None, Limits(train=0, validation=0, test=0), self.where)

    def examples(self, plan: Plan, tokenizer: Any) -> Examples:
        """Return the examples that the plan asks for."""
        data, count = plan.config.data, plan.config.data.examples
        train = count if data.split == "train" else 0
        limits = Limits(train=train, validation=count - train, test=0, seed=plan.config.seed)
        splits = self.task.load(tokenizer, limits, self.where)
        return splits.train if data.split == "train" else splits.validation


@dataclass(frozen=True)
class Material:
    """What a collector works with.

    Args:
        plan: of the merge.
        trunk: the base model, in evaluation mode; its weights may be changed.
        names: name of a tensor in the trunk -> its name in the plan.
        tasks: model -> its task.
        examples: model -> its examples.
        tokenizer: of all.
        pooling: how token features become one vector.
    """

    plan: Plan
    trunk: nn.Module
    names: Mapping[str, str]
    tasks: Mapping[str, TaskData]
    examples: Mapping[str, Examples]
    tokenizer: Any
    pooling: Pooling

    def set_to(self, source: Source) -> None:
        """Give the trunk the weights of a model; the base's where it has none, or of another shape."""
        with torch.no_grad():
            for name, tensor in self.trunk.state_dict().items():
                own = self.names.get(name)
                if own is not None:
                    header = source.headers.get(own)
                    fits = header is not None and header.shape == tensor.shape
                    tensor.copy_((source if fits else self.plan.base).tensor(own))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trunk's parameters that the plan merges, by their names in the plan."""
        merged = set(self.plan.merged)
        return {
            self.names[name]: parameter
            for name, parameter in self.trunk.named_parameters()
            if self.names[name] in merged
        }

    def classifier(self, model: str) -> Classifier:
        """Return the trunk, as it is, with the head of a model's task; the head is frozen."""
        found, folder = self.tasks[model], self.plan.models[model].folder
        classifier = with_head(self.trunk, folder, self.pooling, found.name, found.task, self.tokenizer)
        classifier.head.requires_grad_(False)
        return classifier.eval()

    def experts(self) -> Iterator[tuple[str, Classifier, Examples]]:
        """Yield each model with its classifier, at its own weights, and its examples."""
        for model, source in self.plan.models.items():
            self.set_to(source)
            yield model, self.classifier(model), self.examples[model]

    def described(self) -> dict[str, Any]:
        """Return what was read, for the record."""
        data = self.plan.config.data
        return {
            "split": data.split,
            "examples": {model: len(examples) for model, examples in self.examples.items()},
            "batch_size": data.batch_size,
            "pooling": self.pooling,
        }


def task_data(plan: Plan) -> dict[str, TaskData]:
    """Return model -> the task it was fine-tuned on: from the config, or else from the model's saft.json.

    Raises:
        UserError: a model has no task, or several; a task belongs to no model, or is not declared well.
    """
    given = plan.config.data.tasks
    problems = [
        f"data.tasks.{name}: there is no model of this name{did_you_mean(name, plan.models)}"
        for name in given
        if name not in plan.models
    ]
    found = {}
    for model, source in plan.models.items():
        try:
            name, mapping, where = (
                (model, given[model], "data.tasks") if model in given else _own_task(model, source)
            )
            found[model] = TaskData(name, tasks.build(name, mapping, where), f"{where}.{name}")
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def _own_task(model: str, source: Source) -> tuple[str, Mapping[str, Any], str]:
    declared = _manifest(source).get("tasks", {})
    if len(declared) == 1 or model in declared:
        name = model if model in declared else next(iter(declared))
        return name, declared[name], f"{source.folder / MANIFEST}: tasks"
    why = f"says {len(declared)} tasks, and none is called '{model}'" if declared else "says no task"
    raise UserError(
        f"models.{model}: this method reads examples of each task, but {source.folder}/{MANIFEST} {why}; "
        f"give it: data: {{tasks: {{{model}: {{kind: ...}}}}}}"
    )


def gathered(plan: Plan) -> Material:
    """Load the base model and the examples.

    Raises:
        UserError: as `task_data`; or the base cannot be loaded, or its tensors not be told apart.
    """
    found = task_data(plan)
    pooling, tokenizer = _pooling(plan), _tokenizer(plan)
    examples = {model: task.examples(plan, tokenizer) for model, task in found.items()}
    trunk = load_trunk(ModelConfig(str(plan.base.folder), pooling)).to(plan.device)
    return Material(plan, trunk, tensor_names(trunk, plan.base), found, examples, tokenizer, pooling)


def model_bytes(plan: Plan) -> int:
    """Return the bytes of the weights of one model in float32."""
    return 4 * sum(header.count for header in plan.base.headers.values())


def tensor_names(trunk: nn.Module, source: Source) -> dict[str, str]:
    """Return name of a tensor in the trunk -> its name in a checkpoint; of tied tensors, that of the stored.

    Raises:
        UserError: a parameter of the trunk has no name in the checkpoint.
    """
    stored = {name: name for name in source.headers} | dict(source.tied)
    prefix = f"{getattr(trunk, 'base_model_prefix', '')}."
    names = {}
    for name in trunk.state_dict():
        candidates = [name, prefix + name, name.removeprefix(prefix)]
        match = next((stored[candidate] for candidate in candidates if candidate in stored), None)
        if match is not None:
            names[name] = match
    unknown = [name for name, _ in trunk.named_parameters() if name not in names]
    if unknown:
        raise UserError(
            f"base: {source.folder}: transformers loads '{unknown[0]}' from a tensor of another name; save "
            "the models again with its names: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    return names


def _pooling(plan: Plan) -> Pooling:
    if plan.config.data.pooling is not None:
        return plan.config.data.pooling
    manifests = [_manifest(source) for source in plan.models.values()]
    stated: list[Pooling] = sorted({found["pooling"] for found in manifests if "pooling" in found})
    if len(stated) > 1:
        raise UserError(f"data.pooling: the models were trained with {' and '.join(stated)}; say which")
    return stated[0] if stated else "mean"


def _tokenizer(plan: Plan) -> Any:
    folders = [source.folder for source in (plan.base, *plan.models.values())]
    for folder in folders:
        try:
            return load_tokenizer(ModelConfig(str(folder)))
        except UserError as error:
            problem = error
    raise problem


def _manifest(source: Source) -> dict[str, Any]:
    return read_manifest(source.folder) if (source.folder / MANIFEST).is_file() else {}
