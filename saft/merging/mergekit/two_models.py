"""mergekit's nearswap and arcee_fusion: what of one model is put into another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saft.merging.method import Elementwise, Method, Steps, Tensorwise, parameter
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block

__all__ = ["ArceeFusion", "Nearswap"]

_NO_CHANGE = 1e-6  # magnitudes below it count as that
_NO_SHARE = 1e-8  # is added to probabilities before their logarithm


@dataclass(frozen=True, kw_only=True)
class _OneModel(Method):
    """What both have in common: one model is merged into the base, and nothing is scaled."""

    scaling = 1.0
    scaling_grid = (1.0,)
    max_models = 1


@METHODS.register("mergekit_nearswap")
@dataclass(frozen=True, kw_only=True)
class Nearswap(_OneModel, Elementwise):
    """Takes the model where it is near the base, and less of it the farther it is.

    Entries that differ by at most t are the model's; of others as much is taken as makes the change t.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(Nearswap(t=0.5), torch.tensor([[0.25, 2.0, -1.0]]))
        tensor([ 0.2500,  0.5000, -0.5000])
    """

    t: float = parameter(1e-4, "the greatest change of an entry", at_least=0)

    formula = "θ = θ0 + min(t / |τ|, 1) τ"
    card_template = "mergekit's nearswap: each entry moves to the model's by at most {t:g}"
    source = (
        "alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, "
        "as mergekit 0.1.5 has it"
    )
    deviations = "computed in float32 whatever the dtype of the files"

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for nothing; return the merge."""
        yield from ()

        def merge(block: Block) -> Tensor:
            change = block.task_vectors.flatten(1)[0]
            share = (self.t / change.abs().clamp_(min=_NO_CHANGE)).clamp_(0, 1)
            return share * change

        return merge


@METHODS.register("mergekit_arcee_fusion")
@dataclass(frozen=True, kw_only=True)
class ArceeFusion(_OneModel, Tensorwise):
    """Takes the model where its change matters most, and the base elsewhere.

    An entry's importance is its change times the divergence of its row, softmax of the model's from softmax
    of the base's; a row runs along the last dimension. What is at least the median + 1.5 times the distance
    of the quartiles of the tensor's importances is the model's.

    Example:
        >>> from saft.merging.stream.engine import merge_task_vectors
        >>> merge_task_vectors(ArceeFusion(), torch.tensor([[[0.1, 0.1, 9.0], [0.1, 0.1, 0.1]]]))
        tensor([[0., 0., 9.],
                [0., 0., 0.]])
    """

    formula = "θ = θ0 + [d ≥ q₂ + 1.5 (q₃ − q₁)] τ;  d = |τ| KL(softmax θ₁ ‖ softmax θ0), by rows"
    card_template = "mergekit's Arcee fusion: the entries whose importance is beyond the quartiles"
    source = "Goddard et al. 2024, Arcee's mergekit (arXiv 2403.13257), version 0.1.5"
    deviations = (
        "computed in float32 whatever the dtype of the files; of tensors with more than a million entries "
        "mergekit takes the quartiles of a million that it draws"
    )

    def steps(self, tasks: int, count: int) -> Steps:
        """Ask for nothing; return the merge."""
        yield from ()

        def merge(block: Block) -> Tensor:
            change = block.task_vectors[0]
            if not change.numel():
                return change
            importance = change.abs() * _divergence(block.base + change, block.base)
            values = importance.reshape(-1).sort().values
            first, median, third = (values[int(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
            return change * (importance >= median + 1.5 * (third - first))

        return merge


def _divergence(weights: Tensor, base: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of each row, [*rows, 1]."""
    ours, theirs = (torch.softmax(tensor, dim=-1) + _NO_SHARE for tensor in (weights, base))
    return (ours * (ours / theirs).log()).sum(dim=-1, keepdim=True)
