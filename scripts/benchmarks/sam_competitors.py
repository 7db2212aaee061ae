"""Who is compared: each makes an optimizer for a model, and says how a step of it is taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

__all__ = ["COMPETITORS", "Competitor", "base"]

LEARNING_RATE = 1e-5
RHO = 0.05
RHO_ADAPTIVE = 0.5

Backward = Callable[[], object]
Alone = Callable[[], AbstractContextManager[Any]]
Step = Callable[[Backward, Alone], object]
"""Takes a step, given what runs forward and backward, and a context in which replicas do not reduce."""


@dataclass(frozen=True)
class Competitor:
    """One row of the table.

    Args:
        label: what it is called there.
        passes: forward and backward passes in a step.
        build: makes the optimizer that would be checkpointed, and its step.
    """

    label: str
    passes: int
    build: Callable[[nn.Module], tuple[Optimizer, Step]]


def base(parameters: Any) -> AdamW:
    """Return the optimizer that all of them take their steps with."""
    return AdamW(parameters, lr=LEARNING_RATE, fused=True)


def _adamw(model: nn.Module) -> tuple[Optimizer, Step]:
    optimizer = base(model.parameters())

    def step(backward: Backward, alone: Alone) -> None:
        optimizer.zero_grad()
        backward()
        optimizer.step()

    return optimizer, step


def _floor(model: nn.Module) -> tuple[Optimizer, Step]:
    optimizer = base(model.parameters())

    def step(backward: Backward, alone: Alone) -> None:
        optimizer.zero_grad()
        with alone():
            backward()
        optimizer.zero_grad()
        backward()
        optimizer.step()

    return optimizer, step


def _saft(perturbation: str, **options: Any) -> Callable[[nn.Module], tuple[Optimizer, Step]]:
    def build(model: nn.Module) -> tuple[Optimizer, Step]:
        from saft.optim import SAM

        optimizer = SAM(base(model.parameters()), perturbation, model=model, **options)

        def step(backward: Backward, alone: Alone) -> None:
            optimizer.zero_grad()
            if not optimizer.replays:
                with optimizer.first_pass():
                    backward()
            else:
                with optimizer.first_pass(), alone():
                    backward()
                with optimizer.perturbed():
                    backward()
            optimizer.step()

        return optimizer, step

    return build


class ScaledGradientSAM(Optimizer):
    """The scheme of davda54/sam, written from its description: loops over parameters, clones, a swap back.

    What is copied before the ascent stays in its own state, which is what its checkpoint holds; that of the
    base optimizer is not in it.
    """

    def __init__(self, parameters: Any, make: Callable[[Any], Optimizer], rho: float, adaptive: bool) -> None:
        super().__init__(parameters, {"rho": rho, "adaptive": adaptive})
        self.base = make(self.param_groups)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        """Ascend along the gradients, and clear them."""
        norm = self._norm()
        for group in self.param_groups:
            scale = group["rho"] / (norm + 1e-12)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter]["old"] = parameter.data.clone()
                    direction = parameter.square() if group["adaptive"] else 1.0
                    parameter.add_(direction * parameter.grad * scale)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Put the copies back, and take the base optimizer's step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data = self.state[parameter]["old"]
        self.base.step()

    def _norm(self) -> Tensor:
        norms = [
            ((parameter.abs() if group["adaptive"] else 1.0) * parameter.grad).norm()
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        return torch.stack(norms).norm()


def _described(adaptive: bool) -> Callable[[nn.Module], tuple[Optimizer, Step]]:
    def build(model: nn.Module) -> tuple[Optimizer, Step]:
        rho = RHO_ADAPTIVE if adaptive else RHO
        optimizer = ScaledGradientSAM(model.parameters(), base, rho, adaptive)
        return optimizer, _two_steps(optimizer)

    return build


def _pytorch_optimizer(adaptive: bool) -> Callable[[nn.Module], tuple[Optimizer, Step]]:
    def build(model: nn.Module) -> tuple[Optimizer, Step]:
        from pytorch_optimizer import SAM

        optimizer = SAM(
            model.parameters(),
            AdamW,
            rho=RHO_ADAPTIVE if adaptive else RHO,
            adaptive=adaptive,
            lr=LEARNING_RATE,
            fused=True,
        )
        return optimizer, _two_steps(optimizer)

    return build


def _two_steps(optimizer: Any) -> Step:
    def step(backward: Backward, alone: Alone) -> None:
        optimizer.zero_grad()
        with alone():
            backward()
        optimizer.first_step()
        optimizer.zero_grad()
        backward()
        optimizer.second_step()

    return step


COMPETITORS = {
    "adamw": Competitor("AdamW (fused)", 1, _adamw),
    "floor": Competitor("two passes + AdamW", 2, _floor),
    "saft-sam": Competitor("saft sam", 2, _saft("sam", rho=RHO)),
    "saft-asam": Competitor("saft asam_saft (eta 0)", 2, _saft("asam_saft", rho=RHO_ADAPTIVE)),
    "saft-asam-eta": Competitor("saft asam (eta 0.01)", 2, _saft("asam", rho=RHO_ADAPTIVE)),
    "saft-norm-only": Competitor("saft norm_only", 2, _saft("norm_only")),
    "saft-momentum": Competitor("saft momentum_sam", 1, _saft("momentum_sam")),
    "saft-momentum-in-place": Competitor(
        "saft momentum_sam, in place", 1, _saft("momentum_sam", in_place=True)
    ),
    "davda54": Competitor("davda54's scheme, SAM", 2, _described(adaptive=False)),
    "davda54-adaptive": Competitor("davda54's scheme, ASAM", 2, _described(adaptive=True)),
    "pytorch-optimizer": Competitor("pytorch_optimizer SAM", 2, _pytorch_optimizer(adaptive=False)),
    "pytorch-optimizer-adaptive": Competitor("pytorch_optimizer ASAM", 2, _pytorch_optimizer(adaptive=True)),
}
"""By the name that `--competitors` takes; "adamw" and "floor" are what the others are measured by."""
