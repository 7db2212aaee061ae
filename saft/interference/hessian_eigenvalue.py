"""The largest eigenvalue of the loss's Hessian, by Lanczos, with the residual that bounds its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saft.config import Count, Seed, checked
from saft.interference.loss import Batch, LossMeasure, Neighbourhood, inner_product, length_of
from saft.interference.quantity import IN_LOSS, MEASURES, Passes, Quantity

__all__ = ["HessianEigenvalue", "largest_eigenvalue"]


@MEASURES.register("hessian_eigenvalue")
@checked
@dataclass(frozen=True)
class HessianEigenvalue(LossMeasure):
    """Largest eigenvalue of the Hessian of the loss, and its residual; see `largest_eigenvalue`.

    Args:
        iterations: of Lanczos, each a product with the Hessian.
        seed: of the first vector.

    Example:
        >>> HessianEigenvalue(iterations=10).cost(tasks=2)
        Passes(forward=0.0, backward=40, merges=0.0)
    """

    iterations: Count = 6
    seed: Seed = 0

    quantities: ClassVar[dict[str, Quantity]] = {
        "hessian_eigenvalue": Quantity(
            "largest eigenvalue of the Hessian of the loss: its curvature in the sharpest direction",
            IN_LOSS,
            per="task",
            definition="max over ‖v‖ = 1 of vᵀ ∇²L(w) v",
            source="Lanczos 1950; Ghorbani et al. 2019, arXiv 1901.10159, for networks",
        ),
        "hessian_residual": Quantity(
            "residual of that eigenvalue: an eigenvalue of the Hessian is no further away than this",
            IN_LOSS,
            per="task",
            definition="‖H v − λ v‖ of the Ritz pair (λ, v)",
            source="Lanczos 1950",
        ),
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes forward and backward for each product, of each task."""
        return Passes(backward=2 * tasks * self.iterations)

    def values(
        self,
        module: nn.Module,
        loss: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        parameters: Iterable[Tensor] | None = None,
    ) -> dict[str, float]:
        """Return the eigenvalue and its residual."""
        eigenvalue, residual = largest_eigenvalue(
            module, loss, batches, self.iterations, self.seed, parameters
        )
        return {"hessian_eigenvalue": eigenvalue, "hessian_residual": residual}


def largest_eigenvalue(
    module: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    iterations: int = 6,
    seed: int = 0,
    parameters: Iterable[Tensor] | None = None,
) -> tuple[float, float]:
    r"""Return the largest eigenvalue of the Hessian of the mean loss, and the residual of its estimate.

    .. math:: H q_j = \beta_{j-1} q_{j-1} + \alpha_j q_j + \beta_j q_{j+1}, \qquad
       \lambda = \max \text{eig}(T), \qquad r = \beta_k \lvert s_k \rvert

    T is tridiagonal, of the alphas and betas, and s the eigenvector of lambda. Three vectors of the size of
    the parameters are held, whatever the number of iterations: they are not made orthogonal again, which may
    repeat an eigenvalue that has converged but does not move the largest.

    Args:
        module, loss, batches, parameters: as in `saft.interference.worst_case_sharpness`.
        iterations: at least 1; fewer are made where the space is smaller.
        seed: of the first vector, drawn on the CPU.

    Returns:
        The largest eigenvalue, with its sign, and the residual, at least 0. NaN where the loss is not finite.

    Raises:
        UserError: there is no batch, or nothing to move.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> stretch = torch.diag(torch.tensor([3.0, 1.0]))
        >>> value, residual = largest_eigenvalue(line, lambda x: line(x).square().sum() / 2, [stretch])
        >>> round(value, 3), residual < 1e-3
        (9.0, True)
    """
    generator = torch.Generator().manual_seed(seed)
    with Neighbourhood(module, batches, 0.0, False, parameters).visited() as near:
        vector = [torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device) for w in near.weights]
        vector = _scaled(vector, 1 / length_of(vector))
        before, alphas, betas = [torch.zeros_like(v) for v in vector], list[float](), [0.0]
        for _ in range(min(iterations, sum(v.numel() for v in vector))):
            product = near.hessian_product(loss, vector)
            alphas.append(inner_product(product, vector))
            for p, v, b in zip(product, vector, before, strict=True):
                p.sub_(v, alpha=alphas[-1]).sub_(b, alpha=betas[-1])
            betas.append(length_of(product))
            if not math.isfinite(alphas[-1] + betas[-1]):  # where the loss is not
                return math.nan, math.nan
            if betas[-1] <= 1e-7 * max(map(abs, [*alphas, 1e-30])):  # the vectors so far are a closed space
                break
            before, vector = vector, _scaled(product, 1 / betas[-1])
    off = torch.tensor(betas[1:-1], dtype=torch.float64)
    tridiagonal = torch.diag(torch.tensor(alphas, dtype=torch.float64)) + off.diag(1) + off.diag(-1)
    eigenvalues, eigenvectors = torch.linalg.eigh(tridiagonal)
    return float(eigenvalues[-1]), float(betas[-1] * eigenvectors[-1, -1].abs())


def _scaled(vector: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [part * factor for part in vector]
