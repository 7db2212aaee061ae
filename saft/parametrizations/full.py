"""Full fine-tuning: every weight of the trunk is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from saft.config import checked
from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization

__all__ = ["Full"]


@PARAMETRIZATIONS.register("full")
@checked
@dataclass(frozen=True)
class Full(Parametrization):
    r"""Every weight: $\theta = \theta_0 + \tau$, all of $\tau$ trained.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> Full().wrap(layer, losses=lambda count: iter(()))
        >>> layer.weight.requires_grad
        True
    """

    has_vectors: ClassVar[bool] = True

    def wrap(self, trunk: nn.Module, losses: Losses) -> None:
        """Leave the trunk as it is; see `Parametrization.wrap`."""
