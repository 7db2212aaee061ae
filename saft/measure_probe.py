"""Checkpoints and tasks -> the space that measures of losses, functions and merges are made in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.interference.task_space import Response, Scored, TaskSpace
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.tensor_names import match
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.merging.parameters import of_some_models
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.stored_names import stored_names
from saft.tasks import Batch, BoundTask, Examples, TaskModel, check_one_trunk
from saft.tasks.examples import IGNORED, text_mask
from saft.training.precision import computing

__all__ = ["TaskProbe", "task_space"]

LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|resblocks|h)\.\d+$")
OUTPUTS = 32  # examples whose outputs are compared one by one


class TaskProbe:
    """A bound task and some of its examples, as measures see them; see `saft.interference.task_space.Probe`.

    Args:
        task: says loss, metric and head.
        model: trunk and head, in evaluation mode.
        examples: at least one.
        batch_size: examples of a forward pass.
        precision: of the score; None for the usual one of the device. All else is computed in float32.
    """

    def __init__(
        self,
        task: BoundTask,
        model: TaskModel,
        examples: Examples,
        batch_size: int,
        precision: str | int | None = None,
    ) -> None:
        self.precision = precision
        self.task, self.module, self.examples, self.batch_size = task, model.eval(), examples, batch_size
        self.higher_is_better = task.metric.higher_is_better
        device = next(model.trunk.parameters()).device
        self.batches: list[Batch] = [batch.to(device) for batch in examples.batches(batch_size)]
        self._targets = (sum(int(batch.targets) for batch in self.batches) or 1) / len(self.batches)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss over a batch, a scalar, whose mean over `batches` is that over all targets."""
        return self.task.loss(self.module, batch) * (batch.targets / self._targets)

    @torch.no_grad()
    def response(self) -> Response:
        """Pass the examples forward: loss, predictions and features of one pass."""
        losses, predictions, features = [], [], []
        for batch in self.batches:
            with _recorded(self.module) as seen:
                losses.append((float(self.task.loss(self.module, batch)), int(batch.targets)))
            predictions.append(_predictions(self.module, seen["outputs"], batch))
            of_head = seen.get("features")
            if of_head is None:  # the trunk gives the outputs itself, as language models do
                of_head = self.module.features(batch.inputs)
            features.append(of_head.float().cpu())
        count = sum(targets for _, targets in losses)
        loss = sum(value * targets for value, targets in losses) / max(count, 1)
        return Response(loss, torch.cat(predictions), torch.cat(features))

    def score(self) -> Scored:
        """Return the task's metric on the examples."""
        with computing(self.precision, self.task.device):
            outcomes = self.task.outcomes(self.module, self.examples, self.batch_size)
        score = outcomes.score()
        return Scored(score.value, score.standard_error, outcomes.by_example())

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Return the outputs for the first examples, [n, ...]: logits, of tokens those of targets."""
        outputs, left = [], OUTPUTS
        for whole in self.batches:
            batch = next(whole.split(left))
            with _recorded(self.module) as seen:
                self.loss(batch)
            given = seen["outputs"]
            outputs.append(given[batch.labels != IGNORED] if _of_tokens(given, batch) else given)
            left -= len(batch)
            if not left:
                break
        return torch.cat(outputs).float().cpu()

    @torch.no_grad()
    def layers(self) -> dict[str, Tensor]:
        """Return layer -> mean of its output over the positions of each example, [examples, width]."""
        trunk = self.module.trunk
        layers = {name: part for name, part in trunk.named_modules() if LAYER.search(name)}
        seen: dict[str, list[Tensor]] = {name: [] for name in layers}
        masks: dict[bool, Tensor | None] = {}
        decodes = _decoder_layers(trunk)

        def keeping(name: str) -> Callable[..., None]:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                states = output
                while isinstance(states, tuple | list):
                    states = states[0]  # a stage of PVT gives its states and those of its blocks
                seen[name].append(_mean_over_positions(states, masks[name in decodes]).float().cpu())

            return keep

        handles = [part.register_forward_hook(keeping(name)) for name, part in layers.items()]
        try:
            for batch in self.batches:
                masks = {False: text_mask(batch.inputs), True: batch.labels != IGNORED}
                self.module(batch.inputs)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(parts) for name, parts in seen.items() if parts}


def task_space(
    plan: Plan,
    bound: Mapping[str, BoundTask],
    examples: Mapping[str, Examples],
    folders: Mapping[str, Path],
    batch_size: int,
    merge: MergeConfig | None = None,
    trunk: nn.Module | None = None,
    precision: str | int | None = None,
) -> TaskSpace:
    """Return the space of a base and its experts, with one trunk that is moved in place.

    Args:
        plan: of the experts, from `check`; what it excludes stays the base's in every model.
        bound: task -> bound task, of those experts that have one; at least one.
        examples: task -> its examples, at least one.
        folders: task -> the checkpoint folder, which gives the task's head.
        batch_size: examples of a forward pass.
        merge: how the experts are merged, whichever of them; None where nothing is.
        trunk: that is moved, in float32; None loads the base's.
        precision: of the scores, as lightning.Trainer has it; None for the usual one of the device.

    Raises:
        UserError: the tasks load the model in different ways, or a tensor of the base is none of the model's.
    """
    check_one_trunk({"tasks": bound})
    first = next(iter(bound.values()))
    trunk = (first.load_trunk(plan.base.location) if trunk is None else trunk).requires_grad_(True)
    names = _names(trunk, plan)
    base = {name: plan.base.tensor(file) for name, file in names.items()}
    experts = {task: _Weights(plan, task, names) for task in bound}
    space = TaskSpace(
        trunk,
        base,
        experts,
        probes := {},
        None if merge is None else _merger(merge, plan, names),
        adapters={task: factors for task in bound if (factors := _factors(plan, task, names))},
    )
    for task, some in bound.items():
        space.move(space.expert(task))  # a head that the folder does not hold is made by the expert
        model = some.model(trunk, folders[task])
        probes[task] = TaskProbe(some, model, examples[task], batch_size, precision)
    return space


class _Weights(Mapping[str, Tensor]):
    """The weights of one expert, each read, or computed of an adapter, when it is asked for."""

    def __init__(self, plan: Plan, task: str, names: Mapping[str, str]) -> None:
        self._source, self._names = plan.models[task], names

    def __getitem__(self, name: str) -> Tensor:
        return self._source.tensor(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _names(trunk: nn.Module, plan: Plan) -> dict[str, str]:
    """Return name of a parameter of the trunk -> name of the tensor in files, of all that are merged."""
    prefix = f"{getattr(trunk, 'base_model_prefix', '')}."
    stored = {
        name: file
        for name, tensor in stored_names(trunk).items()
        if (file := match(tensor, plan.merged, prefix)) is not None
    }
    if not stored:
        raise UserError(
            f"base: none of the tensors that are merged, such as '{plan.merged[0]}', is one of "
            f"{type(trunk).__name__}, as which the tasks load it"
        )
    return stored


def _factors(plan: Plan, task: str, names: Mapping[str, str]) -> dict[str, Factors]:
    """Return the matrices of an adapter by the trunk's names; empty of what is more, or none."""
    source, factors = plan.models[task], {}
    for name, file in names.items():
        of_tensor = source.factors(file, plan.base)
        if of_tensor is not None:
            factors[name] = of_tensor
        elif not source.keeps(file, plan.base):
            return {}
    return factors


def _merger(
    merge: MergeConfig, plan: Plan, names: Mapping[str, str]
) -> Callable[[tuple[str, ...]], dict[str, Tensor]]:
    files = {file: name for name, file in names.items()}
    locations = plan.config.by_task()
    kind, every = METHODS.get(merge.method), list(merge.by_task())

    def merged(tasks: tuple[str, ...]) -> dict[str, Tensor]:
        models = {task: locations[task] for task in tasks}
        own = of_some_models(kind, merge.parameters, [every.index(task) for task in tasks])
        of_these = check(
            replace(merge, base=plan.config.base, models=models, parameters=own, exclude=plan.config.exclude)
        )
        return {files[file]: vector for file, vector in engine.stream(of_these) if file in files}

    return merged


@contextmanager
def _recorded(model: TaskModel) -> Iterator[dict[str, Tensor]]:
    """Yield what the last forward pass inside gave: `outputs`, and `features` where the head read any."""
    seen: dict[str, Tensor] = {}

    def keep_features(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["features"] = inputs[0].detach()

    def keep_outputs(_: nn.Module, __: Any, outputs: Tensor) -> None:
        seen["outputs"] = outputs.detach()

    handles = [
        model.head.register_forward_pre_hook(keep_features),
        model.register_forward_hook(keep_outputs),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _predictions(model: TaskModel, outputs: Tensor, batch: Batch) -> Tensor:
    if model.classifies:
        return outputs.argmax(-1).cpu()
    if _of_tokens(outputs, batch):
        return outputs.argmax(-1)[batch.labels != IGNORED].cpu()
    several = outputs.shape == batch.labels.shape  # truth values of several labels
    return (outputs > 0).cpu() if several else outputs.reshape(-1).float().cpu()


def _of_tokens(outputs: Tensor, batch: Batch) -> bool:
    return outputs.dim() == 3 and batch.labels.dim() == 2


def _decoder_layers(trunk: Any) -> set[str]:
    """Return the names of an encoder-decoder's modules that see the targets' tokens, and not the inputs'."""
    if not getattr(getattr(trunk, "config", None), "is_encoder_decoder", False):
        return set()
    decoder = set(trunk.get_decoder().modules())
    return {name for name, part in trunk.named_modules() if part in decoder}


def _mean_over_positions(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over all positions but padding, [examples, width]; of images over the places."""
    if states.dim() == 3 and mask is not None and mask.shape == states.shape[:2]:
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp_min(1)
    return states.flatten(2).mean(-1) if states.dim() == 4 else states.flatten(1, -2).mean(1)
