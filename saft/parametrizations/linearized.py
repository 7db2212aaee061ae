"""Linearized: the tangent of the model at its base is trained (tangent task arithmetic)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saft.config import checked
from saft.errors import UserError, first_line, is_for_memory
from saft.forward_derivatives import load_forward_derivatives, with_forward_derivative
from saft.optim.batch_norm import has_batch_norms
from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization

__all__ = ["Linearized"]


@PARAMETRIZATIONS.register("linearized")
@checked
@dataclass(frozen=True)
class Linearized(Parametrization):
    r"""The tangent at the base: $f(x; \theta_0) + J_\theta f(x; \theta_0)\,(\theta - \theta_0)$ is trained.

    f is the trunk; a head reads what it gives. What is saved is theta, ordinary weights, and saft.json names
    the base. `saft run` tests experts and merges of such an arm as linearized models; other readers,
    `saft evaluate` among them, take the weights for those of the ordinary model. A pass costs about two.
    Attention is computed step by step, since fused kernels have no forward derivative; the trunk gives no
    cache, so it generates every token by a pass over the whole text.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 2.0)
        >>> Linearized().wrap(layer, losses=lambda count: iter(()))
        >>> layer(torch.ones(1, 1)).item()
        2.0

    Source: Ortiz-Jimenez et al., "Task Arithmetic in the Tangent Space: Improved Editing of Pre-Trained
    Models", NeurIPS 2023, arXiv 2305.12827, by torch.func.jvp. Differs: weight decay pulls theta to 0, as in
    every arm, not to the base.
    """

    is_linear: ClassVar[bool] = True
    has_vectors: ClassVar[bool] = True

    def wrap(self, trunk: nn.Module, losses: Losses) -> None:
        """Replace the trunk's forward by that of its tangent here; see `Parametrization.wrap`.

        Raises:
            UserError: the trunk has batch norms, which change as they compute, or computes something that has
                no forward derivative.
        """
        if has_batch_norms(trunk):
            raise UserError(
                f"parametrization: linearized: {type(trunk).__name__} has batch norms, whose statistics move "
                "with every batch, so it has no tangent at the base; take {name: full}"
            )
        model: Any = trunk
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
        load_forward_derivatives()
        base = {parameter: parameter.detach().clone() for parameter in trunk.parameters()}
        inside = _Inside()
        for part in _read_alone(trunk):
            own = {name: base[parameter] for name, parameter in part.named_parameters()}
            part.forward = _Tangent(part, own, inside)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                next(losses(1), None)
        except RuntimeError as error:  # NotImplementedError, too, is one
            if is_for_memory(error):
                raise
            raise UserError(
                f"parametrization: linearized: {type(trunk).__name__} has no tangent, since not all that it "
                f"computes has a forward derivative; take {{name: full}}: {first_line(error)}"
            ) from None


def _read_alone(trunk: nn.Module) -> list[Any]:
    """Return the trunk, and what of it tasks run by itself: an encoder, or what is below a language head."""
    model: Any = trunk
    parts = [trunk, getattr(model, "base_model", trunk)]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        parts.append(model.get_encoder())
    return list(dict.fromkeys(parts))


@dataclass
class _Inside:
    """Whether a tangent is being computed, for which the parts of the trunk are the ordinary ones."""

    now: bool = False


class _Tangent:
    """The forward of a linearized trunk, or of a part of it."""

    gives_cache = False
    """A cache holds what is computed at the base, and not how it moves."""

    def __init__(self, trunk: nn.Module, base: dict[str, Tensor], inside: _Inside) -> None:
        self.trunk = trunk
        self.ordinary = trunk.forward
        self.base = base
        self.inside = inside
        self.__signature__ = inspect.signature(trunk.forward)  # by which tasks know what it takes

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Return the outputs of the linearized trunk, in the form of the ordinary one's."""
        if self.inside.now:
            return self.ordinary(*args, **keywords)
        form: type[Any] = dict

        def outputs(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
            nonlocal form
            with self._ordinary():
                given = torch.func.functional_call(self.trunk, parameters, tuple(args), keywords)
            form = type(given)
            named = {"": given} if isinstance(given, Tensor) else dict(given.items())
            return {name: value for name, value in named.items() if isinstance(value, Tensor)}

        measuring = torch.is_inference_mode_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled() and not measuring):
            if measuring:  # forward derivatives do not go with tensors of inference mode
                args = tuple(_own(value) for value in args)
                keywords = {name: _own(value) for name, value in keywords.items()}
            device = next(self.trunk.parameters()).device
            self.base = {name: tensor.to(device) for name, tensor in self.base.items()}
            change = {name: p - self.base[name] for name, p in self.trunk.named_parameters()}
            with with_forward_derivative(self.trunk):
                both: Any = torch.func.jvp(outputs, (self.base,), (change,))
            at_base, tangent = both
            summed = {name: value + tangent[name] for name, value in at_base.items()}
        return summed[""] if "" in summed else form(**summed)

    @contextmanager
    def _ordinary(self) -> Iterator[None]:
        self.inside.now = True
        try:
            yield
        finally:
            self.inside.now = False


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
