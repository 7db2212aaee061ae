"""L2 towards the base: the weights are to stay where the base has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saft.config import NonNegative, checked
from saft.penalties.low_rank import adapted_layers, factors_of, low_rank_form
from saft.penalties.penalty import PENALTIES, BoundPenalty, Penalty, Setting

__all__ = ["L2Base"]


@PENALTIES.register("l2_base")
@checked
@dataclass(frozen=True)
class L2Base(Penalty):
    r"""Squared distance of the trunk's weights from the base's.

    .. math:: P = \lVert w - w_0 \rVert_2^2

    Of LoRA it is that of the full change of each matrix, $\lVert s B A \rVert_2^2$.

    The plain rival of what looks at outputs. Where the coefficient of a merge is chosen on validation data,
    it is largely a change of that coefficient.

    Args:
        strength: lambda, at least 0; its gradient is 2 lambda (w - w0). 0.05 in the merging literature.
        every, ascend: see `Penalty`.

    Example:
        >>> L2Base(strength=0.05).passes(steps=100, batch_size=8)
        0.0

    Source: Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks" (L2-SP),
    ICML 2018, arXiv 1802.01483. Differs: without the factor 1/2, and without a decay of the head.
    """

    strength: NonNegative = 0.05
    of_weights: ClassVar[bool] = True

    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk at its base; see `Penalty.bind`."""
        return _BoundL2Base(self, trunk)


class _BoundL2Base:
    """The distance of one training from its base, of which it holds a copy; adapters begin at 0."""

    def __init__(self, penalty: L2Base, trunk: nn.Module) -> None:
        self.penalty = penalty
        trained = {name: p for name, p in trunk.named_parameters() if p.requires_grad}
        self.base = {name: p.detach().clone() for name, p in trained.items() if ".lora_" not in name}

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the squared distance times k lambda."""
        parameters = dict(trunk.named_parameters())
        squares = [(parameters[name] - base).float().square().sum() for name, base in self.base.items()]
        with torch.autocast(next(trunk.parameters()).device.type, enabled=False):
            squares += [low_rank_form(factors_of(layer)) for layer in adapted_layers(trunk).values()]
        return self.penalty.every * self.penalty.strength * torch.stack(squares).sum()
