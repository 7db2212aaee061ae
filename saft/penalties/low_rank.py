"""What of a trunk adapters change: the small factors of each layer, and the base beneath them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from saft.merging.inputs.factors import Factors

__all__ = ["adapted_layers", "base_state", "factors_of", "low_rank_form"]


def adapted_layers(trunk: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have LoRA's factors beside their weights, by the names that the base has."""
    return {name: module for name, module in trunk.named_modules() if hasattr(module, "lora_A")}


def base_state(trunk: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the base beneath adapters, by its own names; of a trunk without, its own.

    Example:
        >>> sorted(base_state(nn.Linear(2, 1)))
        ['bias', 'weight']
    """
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in trunk.state_dict().items()
        if ".lora_" not in name
    }


def factors_of(layer: nn.Module) -> Factors:
    """Return what the adapter of a layer adds to its weights: s B A, [outputs, inputs], with its gradient."""
    adapted: Any = layer
    ((adapter, down),) = adapted.lora_A.items()
    return Factors(down.weight, adapted.lora_B[adapter].weight, adapted.scaling[adapter])


def low_rank_form(change: Factors, inputs: Tensor | None = None, outputs: Tensor | None = None) -> Tensor:
    r"""Return $\operatorname{tr}(O\, \Delta W\, I\, \Delta W^\top)$ of $\Delta W = s B A$, by small matrices.

    .. math:: s^2 \operatorname{tr}\left((B^\top O B)\,(A I A^\top)\right)

    Args:
        change: of a layer.
        inputs: I, symmetric, [inputs, inputs]; None is the identity.
        outputs: O, symmetric, [outputs, outputs]; None is the identity.

    Returns:
        0-dim; without both matrices the squared norm of the change.

    Example:
        >>> import torch
        >>> low_rank_form(Factors(torch.ones(1, 3), torch.ones(2, 1), scale=2.0))
        tensor(24.)
    """
    up, down = change.up.float(), change.down.float()
    by_outputs = up.T @ (up if outputs is None else outputs @ up)
    by_inputs = (down if inputs is None else down @ inputs) @ down.T
    return change.scale**2 * (by_outputs * by_inputs.T).sum()
