"""The diagonal of the Fisher information, at each task's fine-tuned weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from saft.calibration import COLLECTORS, Collector, Statistics
from saft.calibration.data import Advance, CalibrationData, model_bytes
from saft.merging.methods.fisher import Fisher
from saft.merging.plan import Plan
from saft.tasks import Examples, TaskModel

__all__ = ["FisherInformation", "exact", "of_batches"]


@COLLECTORS.register("fisher")
class FisherInformation(Collector):
    """Collects the diagonal of each expert's Fisher information."""

    of_labels = True

    def memory(self, plan: Plan) -> int:
        """Return the bytes of the weights, their gradients, and the information."""
        return 3 * model_bytes(plan)

    def collect(self, data: CalibrationData, advance: Advance) -> Statistics:
        """Yield each task's information, by the estimate that the method asks for, in the weights' shapes.

        Source:
            Matena & Raffel 2022, arXiv 2111.09832, section 3.1; the other variant: MergeLM.
        """
        method = data.plan.method
        assert isinstance(method, Fisher)
        weights = data.parameters()
        for name, model, examples in data.each_expert():
            squares = [torch.zeros_like(weight) for weight in weights.values()]
            if method.variant == "paper":
                gradients = exact(model, examples, list(weights.values()))
            else:
                batch_size = data.plan.config.data.batch_size
                gradients = of_batches(model, examples, list(weights.values()), batch_size)
            for share, scaled in gradients:
                for square, gradient in zip(squares, scaled, strict=True):
                    if gradient is not None:
                        square.addcmul_(gradient, gradient, value=1 / len(examples))
                advance(share)
            yield name, "fisher", dict(zip(weights, squares, strict=True))


Gradients = Iterator[tuple[float, tuple[Tensor | None, ...]]]
"""Gradients whose squares add up to the information times the examples; each with its share of the cost."""


def exact(model: TaskModel, examples: Examples, weights: list[Tensor]) -> Gradients:
    r"""Yield :math:`\sqrt{p_c}\, \partial \log p_c / \partial \theta` of every example and class.

    Args:
        model: trunk and head; it classifies.
        examples: without their labels.
        weights: those to differentiate by, of any shape.

    Yields:
        The share of an example that is done, and a gradient for each weight, in its shape, or None.
    """
    for index in range(len(examples)):
        (log_p,) = _log_probabilities(model, examples, [index])
        # The square root is a constant: it weighs the gradient and is not differentiated.
        scaled = log_p.detach().div(2).exp() * log_p
        for c, term in enumerate(scaled):
            yield (
                1 / len(scaled),
                torch.autograd.grad(term, weights, retain_graph=c + 1 < len(scaled), allow_unused=True),
            )


def of_batches(model: TaskModel, examples: Examples, weights: list[Tensor], batch_size: int) -> Gradients:
    r"""Yield :math:`\partial \sum \sqrt{p} \log p / \partial \theta`, a sum over a batch and all classes.

    Args:
        model: trunk and head; it classifies.
        examples: without their labels.
        weights: those to differentiate by, of any shape.
        batch_size: examples in a batch, at least 1.

    Yields:
        The number of examples that are done, and a gradient for each weight, in its shape, or None.
    """
    for start in range(0, len(examples), batch_size):
        batch = list(range(start, min(start + batch_size, len(examples))))
        log_p = _log_probabilities(model, examples, batch)
        term = (log_p.detach().div(2).exp() * log_p).sum()
        yield len(batch), torch.autograd.grad(term, weights, allow_unused=True)


def _log_probabilities(model: TaskModel, examples: Examples, indices: list[int]) -> Tensor:
    batch = examples.collate(indices).to(next(model.parameters()).device)
    return functional.log_softmax(model(batch.inputs), dim=-1)
