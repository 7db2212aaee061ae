"""Attached adapter against merged weights: what rounding into the base's dtype does to the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from saft.interference.functions import FunctionMeasure
from saft.interference.quantity import MEASURES, Measured, Passes, Quantity
from saft.interference.task_space import BASE, TaskSpace
from saft.merging.inputs.factors import Factors

__all__ = ["AdapterGap"]


@MEASURES.register("adapter_gap")
@dataclass(frozen=True)
class AdapterGap(FunctionMeasure):
    r"""Largest difference of any output between an adapter beside the base and one merged into its weights.

    .. math:: \max_x \lvert f(x; W_0 x + s B (A x)) - f(x; \text{round}(W_0 + s B A)\, x) \rvert

    Merged weights are rounded to the dtype that the base is stored in, as `saft merge` writes them; bfloat16
    keeps three digits. Only experts that are LoRA adapters have it.

    Example:
        >>> AdapterGap().cost(tasks=4)
        Passes(forward=8, backward=0.0, merges=0.0)
    """

    quantities: ClassVar[dict[str, Quantity]] = {
        "adapter_gap": Quantity(
            "largest difference of an output between an adapter beside the base and merged into its dtype",
            per="task",
            definition="max over x and outputs of |f(attached) − f(merged, rounded)|",
        )
    }

    def cost(self, tasks: int) -> Passes:
        """Return two passes of each task."""
        return Passes(forward=2 * tasks)

    def values(self, space: TaskSpace) -> dict[str, Measured]:
        """Return it for every expert that is an adapter of linear layers only."""
        gaps = {}
        for task, factors in space.adapters.items():
            layers = {name: _linear(space.trunk, name) for name in factors}
            if not factors or None in layers.values():
                continue
            space.move(BASE)
            with _attached({name: layer for name, layer in layers.items() if layer is not None}, factors):
                attached = space.probes[task].outputs()
            rounded = {name: space.experts[task][name].to(space.base[name].dtype) for name in factors}
            space.moved_by_hand(rounded)
            merged = space.probes[task].outputs()
            gaps[task] = float((attached - merged).abs().max())
        return {"adapter_gap": gaps} if gaps else {}


def _linear(trunk: nn.Module, name: str) -> nn.Linear | None:
    """Return the linear layer whose weight is called so; None where it is something else."""
    module, _, last = name.rpartition(".")
    layer = dict(trunk.named_modules()).get(module)
    return layer if last == "weight" and isinstance(layer, nn.Linear) else None


@contextmanager
def _attached(layers: dict[str, nn.Linear], factors: Any) -> Iterator[None]:
    """Let every layer add its adapter's output inside."""
    handles = [layer.register_forward_hook(_adding(factors[name])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(factors: Factors) -> Any:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        down, up = factors.down.to(x), factors.up.to(x)
        return output + factors.scale * (x @ down.T) @ up.T

    return add
