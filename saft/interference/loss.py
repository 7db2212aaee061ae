"""The loss around the weights of a module: what every measure of the loss is made with."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from saft.errors import UserError
from saft.interference.chosen_measures import chosen
from saft.interference.quantity import MEASURES, Measure, Measured

__all__ = [
    "Batch",
    "LossMeasure",
    "Neighbourhood",
    "inner_product",
    "length_of",
    "loss_measures",
]

Batch = TypeVar("Batch")
_PIECE = (
    1 << 18
)  # numbers that are widened at a time: float64 copies of whole tensors cost more than the sums


class LossMeasure(Measure):
    """A measure of the loss around one model's weights: a frozen dataclass, whose fields are its options."""

    needs = "loss"

    @abstractmethod
    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> Mapping[str, Measured]:
        """Return each quantity, by its name: a number, or a mapping where it has axes beside that of tasks.

        Numbers are NaN where the loss is not finite.

        Args:
            module: what `loss` evaluates; it is left as it was.
            loss: batch -> scalar, a mean over the batch's examples.
            batches: the fixed set; every batch has the same weight.
            parameters: what is moved, of any shape; default: every parameter that requires a gradient.

        Raises:
            UserError: the loss cannot be measured there.
        """


def loss_measures(**options: Any) -> list[LossMeasure]:
    """Return every measure of the loss that is in the group `standard`.

    Args:
        **options: of all of them, for those that have a field of this name, for example rho.

    Example:
        >>> loss_measures(rho=0.05)
        [Sharpness(rho=0.05, adaptive=False, n_steps=1)]
    """
    names = [name for name, kind in MEASURES.items() if kind.needs == "loss" and kind.standard]
    return [cast(LossMeasure, measure) for measure in chosen(names, "measures", **options).values()]


class Neighbourhood:
    """The weights of a module, and the way to the points around them and back.

    Args:
        module: what the loss evaluates.
        batches: the fixed set.
        rho: radius, at least 0.
        adaptive: T is |w|, as in ASAM; else 1.
        parameters: what is moved, of any shape; None: every parameter that requires a gradient.

    Raises:
        ValueError: rho is below 0.
        UserError: there is no batch or nothing to move, or a weight is stored in 16 bits.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> with Neighbourhood(line, [torch.ones(1, 1)], 0.1, False, None).visited() as near:
        ...     near.move([torch.full((1, 1), 0.1)])
        ...     moved = line.weight.item() - near.weights[0].item()
        >>> round(moved, 4)
        0.1
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Sequence[object],
        rho: float,
        adaptive: bool,
        parameters: Iterable[Tensor] | None,
    ) -> None:
        if rho < 0:
            raise ValueError(f"rho must be at least 0, but is {rho}")
        if len(batches) == 0:
            raise UserError("loss: there is no batch to measure on")
        chosen = module.parameters() if parameters is None else parameters
        self.parameters = list({id(p): p for p in chosen if p.requires_grad}.values())
        if not self.parameters:
            raise UserError("loss: no parameter requires a gradient; call module.requires_grad_(True)")
        for parameter in self.parameters:
            if parameter.dtype not in (torch.float32, torch.float64):
                raise UserError(
                    f"loss: a parameter of shape {tuple(parameter.shape)} is {parameter.dtype}, in "
                    "which the perturbation would round away; measure a float32 copy: module.float()"
                )
        self.module, self.batches, self.adaptive = module, batches, adaptive
        self.weights: list[Tensor] = []
        self._gradients: list[tuple[Tensor, Tensor | None]] = []

    @contextmanager
    def visited(self) -> Iterator[Neighbourhood]:
        """Yield self, a copy of the weights taken; put weights, gradients and modes back on the way out."""
        modes = [(part, part.training) for part in self.module.modules()]
        everything: list[Tensor] = [*self.module.parameters(), *self.parameters]
        self._gradients = [(p, p.grad) for p in {id(p): p for p in everything}.values()]
        self.weights = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self.module.eval()
            yield self
        finally:
            self.move(None)
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
            for part, training in modes:
                part.training = training

    def move(self, shift: list[Tensor] | None) -> None:
        """Go to w + T u; None goes back to w itself, exactly.

        Args:
            shift: u, one tensor for each parameter, in its shape.
        """
        with torch.no_grad():
            for i, (parameter, weight) in enumerate(zip(self.parameters, self.weights, strict=True)):
                parameter.copy_(weight if shift is None else weight + self.rescaled(i, shift[i]))

    def rescaled(self, i: int, tensor: Tensor) -> Tensor:
        """Return T times `tensor`, of the i-th parameter.

        Args:
            i: place in `parameters`.
            tensor: of that parameter's shape.
        """
        return tensor * self.weights[i].abs() if self.adaptive else tensor

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the last `loss(backward=True)`; zeros where the loss does not reach.

        Returns:
            One tensor for each parameter, in its shape.
        """
        return [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]

    def hessian_product(self, loss: Callable[[Batch], Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        """Return the Hessian of the mean loss at this point times a vector, by differentiating twice.

        Attention takes its plain form meanwhile: the fast ones cannot be differentiated twice.

        Args:
            loss: batch -> scalar, a mean over the batch's examples.
            vector: one tensor for each parameter, in its shape.

        Returns:
            One tensor for each parameter, in its shape.
        """
        product = [torch.zeros_like(parameter) for parameter in self.parameters]
        for batch in self.batches:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                value = loss(batch)  # type: ignore[arg-type]
                first = torch.autograd.grad(value, self.parameters, create_graph=True, allow_unused=True)
                # Where the loss is linear in a weight there is no graph to differentiate again: zero.
                bent = [
                    (g, v) for g, v in zip(first, vector, strict=True) if g is not None and g.requires_grad
                ]
                if not bent:
                    continue
                gradients, along = zip(*bent, strict=True)
                second = torch.autograd.grad(gradients, self.parameters, along, allow_unused=True)
            for total, part in zip(product, second, strict=True):
                if part is not None:
                    total.add_(part, alpha=1 / len(self.batches))
        return product

    def loss(self, loss: Callable[[Batch], Tensor], backward: bool) -> float:
        """Return the mean loss over the batches at this point; leave its gradient in `.grad` if asked.

        Args:
            loss: batch -> scalar, a mean over the batch's examples.
            backward: whether to leave the gradient.
        """
        for parameter, _ in self._gradients:
            parameter.grad = None
        total = 0.0
        with torch.set_grad_enabled(backward):
            for batch in self.batches:
                value = loss(batch)  # type: ignore[arg-type]
                if backward:
                    (value / len(self.batches)).backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
        return total / len(self.batches)


def length_of(tensors: Sequence[Tensor]) -> float:
    """Return the L2 norm of tensors, of any shape, taken as one vector, summed in float64.

    Example:
        >>> length_of([torch.tensor([3.0]), torch.tensor([[4.0]])])
        5.0
    """
    pieces = (piece for tensor in tensors for piece in _pieces(tensor))
    return math.hypot(*(float(torch.linalg.vector_norm(piece.double())) for piece in pieces))


def inner_product(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the inner product of two lists of tensors, each taken as one vector, summed in float64.

    Args:
        first: tensors of any shape.
        second: as many, in the same shapes.

    Example:
        >>> inner_product([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
        11.0
    """
    pieces = (zip(_pieces(a), _pieces(b), strict=True) for a, b in zip(first, second, strict=True))
    parts = [float(a.double().dot(b.double())) for piece in pieces for a, b in piece]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)  # fsum refuses inf - inf


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.reshape(-1).tensor_split([*range(_PIECE, tensor.numel(), _PIECE)])
