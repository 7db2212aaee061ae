"""tau-Jp: the tangent of the base model along the task vector is to vanish on other inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.config import Count, NonNegative, checked
from saft.forward_derivatives import load_forward_derivatives, with_forward_derivative
from saft.penalties.draws import PenaltyOnInputs
from saft.penalties.penalty import PENALTIES, BoundPenalty, Setting, without_dropout
from saft.penalties.unlabelled import Inputs, Unlabelled

__all__ = ["TauJp"]


@PENALTIES.register("tau_jp")
@checked
@dataclass(frozen=True)
class TauJp(PenaltyOnInputs):
    r"""How far the features of other inputs move along the task vector, to first order at the base.

    .. math:: P = \frac1n \sum_{i=1}^n \left\lVert J_{\hat h}(x_i; w_0)\, (w - w_0) \right\rVert^2, \qquad
       \hat h = \frac{h}{\lVert h \rVert}

    h is the task's `features`, without dropout, and J its Jacobian in the weights that are trained, of LoRA
    in the matrices that it changes: one forward derivative, never a matrix. `drift` holds the outputs
    themselves, `kfac_drift` is this penalty by two matrices a layer instead of inputs.

    Args:
        strength: lambda, at least 0.
        every: k; see `Penalty`.
        ascend: see `Penalty`.
        inputs: whose: "others", the training inputs of the experiment's other tasks, unlabelled; "reference",
            those of the tasks under `reference:`; "own_shuffled", the task's own, a text's tokens or
            an image's patches in random order; "random_tokens", texts as long as the task's own of uniformly
            drawn tokens.
        examples: n, inputs of one step, at least 1; each costs two of a batch.
        distinct: inputs of each task that there are to draw from; null takes its whole training split.

    Example:
        >>> TauJp(every=8, examples=8).passes(steps=80, batch_size=16)
        10.0

    Source: Yoshida et al., "Mastering Task Arithmetic: tau-Jp as a Key Indicator for Weight Disentanglement",
    ICLR 2025. Differs: the model that is trained is linearized only where the arm's `parametrization` says
    so; the norm is squared, and of normalized features; the task of a step is drawn, not in turn.
    """

    strength: NonNegative = 0.5
    every: Count = 1

    def cost(self, batch_size: int) -> float:
        """Return the cost of two passes of n inputs: the outputs are computed with their derivative."""
        return 2 * self.examples / batch_size

    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk at its base; see `Penalty.bind`."""
        return _BoundTauJp(self, trunk, setting)


class _BoundTauJp:
    """The derivative of one training, with the base's weights of what is trained."""

    def __init__(self, penalty: TauJp, trunk: nn.Module, setting: Setting) -> None:
        self.penalty = penalty
        self.draws = penalty.draws(setting)
        trained = {name: p for name, p in trunk.named_parameters() if p.requires_grad}
        # Along LoRA's second factor alone, which begins at 0, the derivative is that of its full change.
        self.base = {name: p.detach().clone() for name, p in trained.items() if ".lora_A." not in name}
        load_forward_derivatives()

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the squared length of the derivative, times k lambda."""
        source, inputs = self.draws.of_step(trunk, step)
        weights = dict(trunk.named_parameters())
        change = {f"trunk.{name}": weights[name] - base for name, base in self.base.items()}
        base = {f"trunk.{name}": tensor for name, tensor in self.base.items()}
        model = _Features(trunk, source)

        def features(parameters: dict[str, Tensor]) -> Any:
            return torch.func.functional_call(model, parameters, (inputs,))

        with without_dropout(trunk), with_forward_derivative(trunk):
            both: Any = torch.func.jvp(features, (base,), (change,))
        moved: Tensor = both[1].square().sum(-1).mean()
        return self.penalty.every * self.penalty.strength * moved


class _Features(nn.Module):
    """What a task reads of a trunk, normalized, as a module whose parameters can be others for one call."""

    def __init__(self, trunk: nn.Module, source: Unlabelled) -> None:
        super().__init__()
        self.trunk = trunk
        self.source = source

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the normalized features, [examples, width]."""
        return functional.normalize(self.source.features(self.trunk, inputs).float(), dim=-1)
