"""Sparse: the entries of the matrices that the base's outputs depend on least are trained (TaLoS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saft.config import Count, Fraction, checked
from saft.errors import UserError
from saft.models import Conv1D
from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization, train_only

__all__ = ["Sparse"]


@PARAMETRIZATIONS.register("sparse")
@checked
@dataclass(frozen=True)
class Sparse(Parametrization):
    r"""The least sensitive entries: $\theta = \theta_0 + m \odot \tau$, m being 1 where the Fisher is least.

    .. math:: F_i = \frac1n \sum_{j=1}^n \Big( \frac{\partial \ell_j}{\partial \theta_i} \Big)^2
       \text{ at } \theta_0, \qquad m_i = 1 \text{ for the share `density` of the smallest } F_i

    over the matrices of all linear layers that the loss depends on, together; of equals, the first. Every
    other entry of the trunk keeps the base's bits. SAM perturbs the entries that are trained.

    Args:
        density: share of the entries of these matrices that is trained, in (0, 1].
        examples: n, training examples that the Fisher is taken over, at least 1.

    Example:
        >>> layer, x = nn.Linear(2, 1), torch.tensor([[1.0, 0.0]])
        >>> after_step = Sparse(density=0.5).wrap(layer, lambda count: iter([layer(x).sum()]))
        >>> layer(x + 1).sum().backward(); layer.weight.grad  # the second input is never seen
        tensor([[0., 1.]])

    Source: Iurada et al., "Efficient Model Editing with Task-Localized Sparse Fine-tuning" (TaLoS), ICLR
    2025, arXiv 2504.02620. Differs: the Fisher is the empirical one, of the data's labels instead of labels
    drawn from the model; one round; entries outside the mask get no gradient at all; embeddings, of which
    most rows are never read, are not candidates.
    """

    density: Fraction = 0.1
    examples: Count = 128

    has_norms: ClassVar[bool] = False

    def wrap(self, trunk: nn.Module, losses: Losses) -> Callable[[], None]:
        """Freeze all but the entries where the Fisher is least; see `Parametrization.wrap`.

        Raises:
            UserError: the trunk has no linear layer.
        """
        modules = list(trunk.modules())
        matrices = {module.weight for module in modules if isinstance(module, nn.Linear | Conv1D)}
        matrices -= {module.weight for module in modules if isinstance(module, nn.Embedding)}  # tied heads
        own = {name: p for name, p in trunk.named_parameters() if p in matrices}
        if not own:
            raise UserError(f"parametrization: sparse: {type(trunk).__name__} has no linear layer")
        masks = self._masks(own, losses)
        own = {name: own[name] for name in masks}
        train_only(trunk, own.keys())
        base = {name: parameter.detach().clone() for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.register_hook(masks[name].to(parameter.dtype).mul)  # type: ignore[no-untyped-call]

        @torch.no_grad()
        def after_step() -> None:
            # Weight decay and what an optimizer remembers move entries without gradient.
            for name, parameter in own.items():
                parameter.copy_(torch.where(masks[name], parameter, base[name]))

        return after_step

    def passes(self, batch_size: int) -> float:
        """Return the passes of the Fisher's examples; see `Parametrization.passes`."""
        return self.examples / batch_size

    def _masks(self, own: dict[str, nn.Parameter], losses: Losses) -> dict[str, Tensor]:
        """Return a mask for each tensor that is used; together they hold `density` of the entries, or one."""
        fisher = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
        used = set[str]()
        for loss in losses(self.examples):
            gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            for name, gradient in zip(own, gradients, strict=True):
                if gradient is not None:
                    fisher[name].add_(gradient.square())
                    used.add(name)
        fisher = {name: total for name, total in fisher.items() if name in used or not used}
        flat = torch.cat([total.flatten() for total in fisher.values()])
        count = max(1, round(self.density * flat.numel()))
        mask = torch.zeros_like(flat, dtype=torch.bool)
        mask[torch.argsort(flat, stable=True)[:count]] = True
        parts = torch.split(mask, [total.numel() for total in fisher.values()])
        return {name: part.view_as(fisher[name]) for name, part in zip(fisher, parts, strict=True)}
