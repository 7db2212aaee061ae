"""IntervMerge: after a merge, interventions that give the merged model each expert's features again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft import interventions
from saft.calibration.data import Advance, CalibrationData, load_calibration_data
from saft.interventions import Intervention, Positions
from saft.merging.inputs.source import read_source
from saft.merging.merge_config import InterventionConfig
from saft.merging.plan import Plan
from saft.merging.stream.reader import Progress
from saft.tasks import Examples, TaskModel

__all__ = ["train", "train_into"]


def train_into(plan: Plan, folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train the interventions of each task on the merged model in a folder, and write them there.

    Args:
        plan: from `check`, of a method that gives one model.
        folder: that holds the merged weights; parts/TASK.safetensors are added.
        progress: called with how much of the training is done.

    Returns:
        What saft.json says of it: `data` and `interventions`.
    """
    settings, data = _settings(plan), load_calibration_data(plan)
    cost = settings.iterations * plan.config.data.batch_size * len(plan.models)
    done = 0.0

    def advance(by: float) -> None:
        nonlocal done
        done += by
        if progress:
            progress(int(done), cost)

    with torch.random.fork_rng():
        torch.manual_seed(plan.config.seed)
        for task, trained in train(data, folder, advance):
            interventions.save(folder, task, trained)
    described = {
        "rank": settings.rank,
        "positions": _positions(data),
        "learning_rate": settings.learning_rate,
        "iterations": settings.iterations,
    }
    return {"data": data.described(), "interventions": described}


def train(
    data: CalibrationData, folder: Path, advance: Advance
) -> Iterator[tuple[str, dict[str, Intervention]]]:
    r"""Train the interventions of each task, and yield them.

    .. math:: \min \; \operatorname{mean} \lvert f(x; \theta, \Phi_t) - f(x; \theta_t) \rvert

    with f the pooled features, θ the merged weights, Φ the interventions and θₜ the task's own model. Adam,
    without weight decay.

    Args:
        data: the trunk and the examples.
        folder: that holds the merged model.
        advance: called for every example.

    Source:
        Tang et al. 2025, arXiv 2412.17023; there on the test images, and in 12 blocks whatever the depth.
    """
    plan, settings = data.plan, _settings(data.plan)
    merged = read_source(str(folder), folder)
    batch_size = plan.config.data.batch_size
    positions = _positions(data)
    data.trunk.requires_grad_(False)
    for name, source in plan.models.items():
        examples, model = data.examples[name], data.model(name)
        data.set_to(source)
        features, widths = _features(data, model, examples)
        data.set_to(merged)
        trained = {
            block: Intervention(width, settings.rank, positions).to(plan.device)
            for block, width in widths.items()
        }
        weights = [weight for intervention in trained.values() for weight in intervention.parameters()]
        optimizer = torch.optim.Adam(weights, lr=settings.learning_rate)
        end = interventions.attach(data.trunk, trained)
        for batch in examples.training_order(batch_size, settings.iterations, plan.config.seed):
            inputs = examples.collate(batch).to(plan.device).inputs
            optimizer.zero_grad()
            torch.autograd.backward(functional.l1_loss(model.features(inputs), features[batch]))
            optimizer.step()
            advance(len(batch))
        end()
        yield name, trained


@torch.no_grad()
def _features(data: CalibrationData, model: TaskModel, examples: Examples) -> tuple[Tensor, dict[str, int]]:
    """Return the features of all examples, [examples, width], and the width of each block's attention."""
    widths: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            widths[name] = (output[0] if isinstance(output, tuple) else output).shape[-1]

        return hook

    watched = interventions.attention(data.trunk).items()
    handles = [module.register_forward_hook(watch(name)) for name, module in watched]
    size = data.plan.config.data.batch_size
    batches = [range(at, min(at + size, len(examples))) for at in range(0, len(examples), size)]
    features = [
        model.features(examples.collate(list(batch)).to(data.plan.device).inputs) for batch in batches
    ]
    for handle in handles:
        handle.remove()
    return torch.cat(features), widths


def _settings(plan: Plan) -> InterventionConfig:
    assert plan.config.interventions is not None
    return plan.config.interventions


def _positions(data: CalibrationData) -> Positions:
    """Return the tokens that are changed: as asked for, or the first where every task reads only that."""
    first = all(data.model(name).reads_first_token for name in data.tasks)
    return _settings(data.plan).positions or ("first" if first else "all")
