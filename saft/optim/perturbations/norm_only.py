"""SAM-ON: ascend only along the affine parameters of the normalization layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from saft.optim.perturbations.asam import ASAM
from saft.optim.perturbations.base import PERTURBATIONS
from saft.optim.slots import Label, Slot

__all__ = ["NormOnly"]

# LayerNorm, BatchNorm2d, LlamaRMSNorm ...; by name "norm1.weight", "bn2.bias", "ln_1.weight".
_NORM = re.compile(r"norm|(?:^|[._])(?:bn|ln)(?:[\d._]|$)", re.IGNORECASE)


@PERTURBATIONS.register("norm_only")
@dataclass(frozen=True)
class NormOnly(ASAM):
    r"""SAM-ON: the ascent step of ASAM, or of SAM, over normalization layers only; all layers are trained.

    $\epsilon = \rho\, T^2 g_N / \|T g_N\|_2$ with g_N the gradient of their parameters, about 0.1 % of a
    model, so there is nothing to speak of to hold or to move. Two passes are still needed.

    Args:
        rho: radius, at least 0; far larger than SAM's, as there are few weights to move: 0.5 in the authors'
            class, 10 in their CIFAR-100 command.
        adaptive: whether the weights are rescaled as in ASAM; False is plain SAM.
        eta, scope: see `ASAM`.

    Example:
        >>> NormOnly().selects(Label("encoder.0.norm1.weight"))
        True
        >>> NormOnly().selects(Label("head.weight", "Linear"))
        False

    Source: Mueller et al., "Normalization Layers Are All That Sharpness-Aware Minimization Needs", NeurIPS
    2023, arXiv 2306.04226. Differs: a layer is a norm if its class says so, where the model is known; the
    authors go by "norm" or "bn" in the name of the parameter, as saft does (and by "ln") where it is not.
    """

    rho: float = 0.5
    adaptive: bool = True

    needs_labels: ClassVar[bool] = True

    def selects(self, label: Label) -> bool:
        """Return whether a parameter belongs to a normalization layer."""
        return _NORM.search(label.layer or label.name) is not None

    def _rescales(self, slot: Slot) -> bool:
        return self.adaptive and super()._rescales(slot)
