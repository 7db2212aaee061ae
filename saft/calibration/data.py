"""What a collector works with: the tasks' examples, and one model that can be set to any task's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saft import tasks
from saft.errors import UserError, did_you_mean
from saft.merging.inputs.source import Source
from saft.merging.inputs.tensor_names import rename
from saft.merging.plan import Plan
from saft.model_config import ModelConfig
from saft.stored_names import stored_names
from saft.tasks import BoundTask, Examples, Limits, Task, TaskModel

__all__ = [
    "Advance",
    "CalibrationData",
    "ModelTask",
    "load_calibration_data",
    "model_bytes",
    "model_tasks",
    "tensor_names",
]

Advance = Callable[[float], None]
"""Called with the cost of what was done."""


@dataclass(frozen=True)
class ModelTask:
    """The task that one model was fine-tuned on.

    Args:
        name: of its head: heads/NAME.safetensors.
        task: as it was declared.
        where: the place in front of every message.
    """

    name: str
    task: Task
    where: str

    def bind(self, plan: Plan, model: Source) -> BoundTask:
        """Bind the task to the base; to the model where the base has no tokenizer."""
        try:
            return self.task.bind(self.name, ModelConfig(str(plan.base.folder)), self.where, plan.device)
        except UserError:
            return self.task.bind(self.name, ModelConfig(str(model.folder)), self.where, plan.device)


@dataclass(frozen=True)
class CalibrationData:
    """What a collector works with.

    Args:
        plan: of the merge.
        trunk: the base model, in evaluation mode; its weights may be changed.
        names: name of a tensor in the trunk -> its name in the plan.
        tasks: model -> its task, bound to the base.
        examples: model -> its examples.
    """

    plan: Plan
    trunk: nn.Module
    names: Mapping[str, str]
    tasks: Mapping[str, BoundTask]
    examples: Mapping[str, Examples]

    def set_to(self, source: Source) -> None:
        """Load a model's weights into the trunk; the base's where it has none, or of another shape."""
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

    def model(self, name: str) -> TaskModel:
        """Return the trunk, as it is, with the head of a model's task; the head is frozen."""
        model = self.tasks[name].model(self.trunk, self.plan.models[name].folder)
        model.head.requires_grad_(False)
        return model.eval()

    def each_expert(self) -> Iterator[tuple[str, TaskModel, Examples]]:
        """Yield each model's name, the model at its own weights, and its examples."""
        for name, source in self.plan.models.items():
            self.set_to(source)
            yield name, self.model(name), self.examples[name]

    def described(self) -> dict[str, Any]:
        """Return what was read, for the record."""
        data = self.plan.config.data
        return {
            "split": data.split,
            "examples": {model: len(examples) for model, examples in self.examples.items()},
            "batch_size": data.batch_size,
        }


def model_tasks(plan: Plan) -> dict[str, ModelTask]:
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
    declared = {}
    for model, source in plan.models.items():
        try:
            if model in given:
                task = tasks.build(model, given[model], "data.tasks")
                declared[model] = ModelTask(model, task, f"data.tasks.{model}")
            else:
                cure = f"give it: data: {{tasks: {{{model}: {{kind: ...}}}}}}"
                declared[model] = ModelTask(*tasks.own_task(model, source.folder, cure))
        except UserError as error:
            reads = f"models.{model}: this method reads examples of each task: "
            problems += [problem if model in given else reads + problem for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return declared


def load_calibration_data(plan: Plan, declared: Mapping[str, ModelTask] | None = None) -> CalibrationData:
    """Load the base model and the examples.

    Args:
        plan: from `saft.merging.plan.check`.
        declared: the plan's `model_tasks`, where they are known already.

    Raises:
        UserError: as `model_tasks`; or the base cannot be loaded, or its tensors not be told apart.
    """
    declared = model_tasks(plan) if declared is None else declared
    bound = {name: task.bind(plan, plan.models[name]) for name, task in declared.items()}
    tasks.check_one_trunk({"data.tasks": bound})
    examples = {name: _examples(task, plan) for name, task in bound.items()}
    trunk = next(iter(bound.values())).load_trunk(plan.base.folder)
    return CalibrationData(plan, trunk, tensor_names(trunk, plan.base), bound, examples)


def _examples(task: BoundTask, plan: Plan) -> Examples:
    """Return the examples that the plan asks for; of the test split none is taken."""
    data, count = plan.config.data, plan.config.data.examples
    train = count if data.split == "train" else 0
    splits = task.examples(Limits(train=train, validation=count - train, test=0, seed=plan.config.seed))
    return splits.train if data.split == "train" else splits.validation


def model_bytes(plan: Plan) -> int:
    """Return the bytes of the weights of one model in float32."""
    return 4 * sum(header.count for header in plan.base.headers.values())


def tensor_names(trunk: nn.Module, source: Source) -> dict[str, str]:
    """Return name of a tensor in the trunk -> its name in a checkpoint; of tied tensors, that of the stored.

    Raises:
        UserError: a parameter of the trunk has no name in the checkpoint.
    """
    stored = {name: name for name in source.headers} | dict(source.tied)
    files = {file: name for name, file in stored_names(trunk).items()}
    renamed = rename([*files], stored)
    names = {files[file]: stored[new] for new, file in renamed.items() if new in stored}
    unknown = [name for name, _ in trunk.named_parameters() if name not in names]
    if unknown:
        raise UserError(
            f"base: {source.folder}: transformers loads '{unknown[0]}' from a tensor of another name; save "
            "the models again with its names: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    return names
