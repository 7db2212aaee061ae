"""AdaMerging's search: coefficients that minimize the entropy of the merged model's predictions."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from saft.calibration import COLLECTORS, Collector, Statistics
from saft.calibration.data import Advance, CalibrationData, model_bytes
from saft.merging.methods.adamerging import AdaMerging, Added
from saft.merging.plan import Plan
from saft.merging.stream.gathering import prepare
from saft.merging.stream.reader import Reader

__all__ = ["AdaptiveCoefficients", "entropy"]


@COLLECTORS.register("coefficients")
class AdaptiveCoefficients(Collector):
    """Collects the coefficients that AdaMerging learns."""

    of_labels = True

    def memory(self, plan: Plan) -> int:
        """Return the bytes of the task vectors, the base, the merged weights, and their gradients."""
        return (len(plan.models) + 3) * model_bytes(plan)

    def cost(self, data: CalibrationData) -> float:
        """Return the examples of all steps of the search."""
        method = _method(data)
        return float(len(data.examples) * method.iterations * data.plan.config.data.batch_size)

    def collect(self, data: CalibrationData, advance: Advance) -> Statistics:
        r"""Search for the coefficients, and yield those of each task: one number for each tensor.

        The gradient of a coefficient is :math:`\langle \partial L / \partial \theta_l, \tau_{t,l} \rangle`:
        one backward pass through the merged model gives those of all tasks.

        Source:
            Yang et al. 2024, arXiv 2310.02575, equations 3 to 5.
        """
        plan, method = data.plan, _method(data)
        models = list(plan.models)
        state = data.trunk.state_dict(keep_vars=True)
        weights = {data.names[name]: tensor for name, tensor in state.items() if name in data.names}
        weights = {name: weights[name] for name in plan.merged if name in weights}
        base = {name: weight.detach().clone() for name, weight in weights.items()}
        vectors = _vectors(data, list(weights))
        # The column of each tensor's coefficients: its own, or the one that all share.
        own = method.coefficients == "layer_wise"
        column = {name: at for at, name in enumerate(weights)} if own else dict.fromkeys(plan.merged, 0)
        shape = (len(models), len(weights) if own else 1)
        coefficients = torch.full(shape, method.initial, device=plan.device)
        optimizer = torch.optim.Adam([coefficients], lr=method.learning_rate)
        merged = {name: data.model(name) for name in models}
        orders = {
            name: examples.training_order(plan.config.data.batch_size, method.iterations, plan.config.seed)
            for name, examples in data.examples.items()
        }

        for step in range(method.iterations):
            for tensor, weight in weights.items():
                change = torch.tensordot(coefficients[:, column[tensor]], vectors[tensor], dims=1)
                weight.data.copy_(base[tensor] + change)
                weight.grad = None
            for name, model in merged.items():
                batch = data.examples[name].collate(orders[name][step]).to(plan.device)
                torch.autograd.backward(entropy(model(batch.inputs)))
                advance(len(batch))
            coefficients.grad = torch.zeros_like(coefficients)
            for name, weight in weights.items():
                if weight.grad is not None:
                    slope = torch.tensordot(vectors[name], weight.grad, dims=weight.dim())
                    coefficients.grad[:, column[name]] += slope
            optimizer.step()
        for at, task in enumerate(models):
            learned = {name: coefficients[at, c].reshape(1).clone() for name, c in column.items()}
            yield task, "coefficients", learned


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


def _method(data: CalibrationData) -> AdaMerging:
    method = data.plan.method
    assert isinstance(method, AdaMerging)
    return method


def _vectors(data: CalibrationData, names: list[str]) -> dict[str, Tensor]:
    """Return what is weighted of each tensor, [n_tasks, *shape]."""
    plan = dataclasses.replace(data.plan, method=Added(**_method(data).parameters()))
    count = sum(plan.base.headers[name].count for name in plan.merged)
    with Reader(plan) as reader:
        # The same statistics as the merge itself will take, of all that is merged.
        over = reader.blocks(sorted(plan.merged))
        function = prepare(plan.method, len(plan.models), count, over, plan.device)
        parts = {}
        for name in names:
            blocks = list(reader.map_blocks([name], function))
            shape = plan.base.headers[name].shape
            none = torch.empty(len(plan.models), 0, device=plan.device)
            parts[name] = torch.cat([none, *blocks], dim=1).view(len(plan.models), *shape).float()
        return parts
