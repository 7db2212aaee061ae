"""Attention only: the matrices of the attention blocks are trained, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from saft.config import checked
from saft.errors import UserError
from saft.models import Conv1D
from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization, train_only

__all__ = ["Attention"]

_WORDS = ("attention", "attn")


@PARAMETRIZATIONS.register("attention")
@checked
@dataclass(frozen=True)
class Attention(Parametrization):
    r"""Attention only: $W_Q, W_K, W_V, W_O$ of every attention block, without biases.

    They are the weights of the linear layers inside a module that is called attention, whatever they are
    called themselves: fused ones (`qkv`, `c_attn`) and cross-attention too; norms, biases, embeddings and all
    else keep the base's values.

    Example:
        >>> attention = nn.ModuleDict({"q_proj": nn.Linear(1, 1)})
        >>> block = nn.ModuleDict({"self_attn": attention, "mlp": nn.Linear(1, 1)})
        >>> Attention().wrap(block, losses=lambda count: iter(()))
        >>> [name for name, parameter in block.named_parameters() if parameter.requires_grad]
        ['self_attn.q_proj.weight']

    Source: Jin et al., "Fine-Tuning Attention Modules Only: Enhancing Weight Disentanglement in Task
    Arithmetic", ICLR 2025, arXiv 2407.07089: its form without biases, for any architecture.
    """

    has_norms: ClassVar[bool] = False

    def wrap(self, trunk: nn.Module, losses: Losses) -> None:
        """Freeze all but the attention's matrices; see `Parametrization.wrap`.

        Raises:
            UserError: the trunk has no such matrix.
        """
        names = set(_matrices(trunk))
        if not names:
            raise UserError(
                f"parametrization: attention: {type(trunk).__name__} has no linear layer in a module that is "
                "called attention; take {name: only, tensors: [...]}"
            )
        train_only(trunk, names)


def _matrices(trunk: nn.Module) -> Iterator[str]:
    for name, module in trunk.named_modules():
        blocks = name.lower().split(".")
        if isinstance(module, nn.MultiheadAttention):
            for own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                if getattr(module, own) is not None:
                    yield f"{name}.{own}".lstrip(".")
            yield f"{name}.out_proj.weight".lstrip(".")
        elif isinstance(module, nn.Linear | Conv1D) and any(
            word in block for block in blocks for word in _WORDS
        ):
            yield f"{name}.weight"
