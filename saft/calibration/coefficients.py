"""AdaMerging's search: coefficients with which the merged model's predictions are sure."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from saft.calibration import COLLECTORS, Collector, Statistics
from saft.calibration.material import Advance, Material, model_bytes
from saft.merging.methods.adamerging import AdaMerging, Added
from saft.merging.plan import Plan
from saft.merging.stream.order_statistics import prepare
from saft.merging.stream.reader import Reader

__all__ = ["collect", "entropy"]


def collect(material: Material, advance: Advance) -> Statistics:
    r"""Search for the coefficients, and yield those of each task: one number for each tensor.

    The gradient of a coefficient is :math:`\langle \partial L / \partial \theta_l, \tau_{t,l} \rangle`: one
    backward pass through the merged model gives those of all tasks.

    Source:
        Yang et al. 2024, arXiv 2310.02575, equations 3 to 5.
    """
    plan, method = material.plan, _method(material)
    models = list(plan.models)
    state = material.trunk.state_dict(keep_vars=True)
    weights = {material.names[name]: tensor for name, tensor in state.items() if name in material.names}
    weights = {name: weights[name] for name in plan.merged if name in weights}
    base = {name: weight.detach().clone() for name, weight in weights.items()}
    vectors = _vectors(material, list(weights))
    # The column of each tensor's coefficients: its own, or the one that all share.
    own = method.coefficients == "layer_wise"
    column = {name: at for at, name in enumerate(weights)} if own else dict.fromkeys(plan.merged, 0)
    shape = (len(models), len(weights) if own else 1)
    found = torch.full(shape, method.initial, device=plan.device)
    optimizer = torch.optim.Adam([found], lr=method.learning_rate)
    classifiers = {model: material.classifier(model) for model in models}
    orders = {
        model: examples.training_order(plan.config.data.batch_size, method.iterations, plan.config.seed)
        for model, examples in material.examples.items()
    }

    for step in range(method.iterations):
        for name, weight in weights.items():
            weight.data.copy_(base[name] + torch.tensordot(found[:, column[name]], vectors[name], dims=1))
            weight.grad = None
        for model, classifier in classifiers.items():
            batch = material.examples[model].collate(orders[model][step]).to(plan.device)
            torch.autograd.backward(entropy(classifier(batch.inputs)))
            advance(len(batch))
        found.grad = torch.zeros_like(found)
        for name, weight in weights.items():
            if weight.grad is not None:
                slope = torch.tensordot(vectors[name], weight.grad, dims=weight.dim())
                found.grad[:, column[name]] += slope
        optimizer.step()
    for at, model in enumerate(models):
        yield model, "coefficients", {name: found[at, c].reshape(1).clone() for name, c in column.items()}


def entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the predictions, in nats.

    Args:
        logits: [batch, labels].

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]])) * 2       # log 2 of the first, 0 of the second
        tensor(0.6931)
    """
    log_p = functional.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def _method(material: Material) -> AdaMerging:
    method = material.plan.method
    assert isinstance(method, AdaMerging)
    return method


def _vectors(material: Material, names: list[str]) -> dict[str, Tensor]:
    """Return what is weighted of each tensor, [n_tasks, *shape]."""
    plan = dataclasses.replace(material.plan, method=Added(**_method(material).parameters()))
    count = sum(plan.base.headers[name].count for name in plan.merged)
    with Reader(plan) as reader:
        # The same statistics as the merge itself will take, of all that is merged.
        over = reader.blocks(sorted(plan.merged))
        function = prepare(plan.method, len(plan.models), count, over, plan.device)
        found = {}
        for name in names:
            blocks = list(reader.map_blocks([name], function))
            shape = plan.base.headers[name].shape
            none = torch.empty(len(plan.models), 0, device=plan.device)
            found[name] = torch.cat([none, *blocks], dim=1).view(len(plan.models), *shape).float()
        return found


def _cost(material: Material) -> float:
    method = _method(material)
    return float(len(material.examples) * method.iterations * material.plan.config.data.batch_size)


def _memory(plan: Plan) -> int:
    return (len(plan.models) + 3) * model_bytes(plan)  # task vectors, base, merged weights, their gradients


COLLECTORS.register("coefficients")(Collector(_memory, _cost, collect))
