"""K-FAC drift: the drift to second order, from two matrices a layer instead of the other tasks' inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from saft.config import Count, CountOrZero, NonNegative, checked
from saft.errors import UserError, collecting
from saft.penalties.cache import cached, digest
from saft.penalties.kronecker import KroneckerFactors, Matrices, flat_weight, summarize
from saft.penalties.low_rank import adapted_layers, base_state, factors_of, low_rank_form
from saft.penalties.penalty import PENALTIES, BoundPenalty, Penalty, Setting, without_dropout
from saft.penalties.unlabelled import Unlabelled
from saft.tasks.task import BoundTask

__all__ = ["KFACDrift"]


@PENALTIES.register("kfac_drift")
@checked
@dataclass(frozen=True)
class KFACDrift(Penalty):
    r"""How far the features of other inputs move, to second order in the weights and layer by layer.

    .. math:: P = \sum_l \operatorname{tr}(B_l\, \Delta W_l\, A_l\, \Delta W_l^\top)

    A and B are those of `KroneckerFactors`, at the base, each averaged over the other tasks. Linear layers
    with their biases, and embeddings; other parameters (norms) pay nothing. Of LoRA dW is the full change of
    each matrix, and the products are of its small factors.

    Args:
        strength: lambda, at least 0; 8 for texts was found to work.
        every: k; see `Penalty`.
        ascend: see `Penalty`.
        inputs: whose factors: "others", the experiment's other tasks'; "reference", those of the tasks under
            `reference:`.
        examples: training inputs, unlabelled, that a task's factors are made from; 128 to 256 suffice.
        rank: how many eigenvectors of each matrix count beside its diagonal, at least 0; null takes it whole.
            What is in `summaries` is as it was written.
        summaries: files that `summarize` wrote, instead of inputs: experts can be trained apart, and see
            nothing else of each other.

    Example:
        >>> KFACDrift(examples=192).passes(steps=100, batch_size=16)
        12.0

    Source: Porrello et al., TAK, ICLR 2026, whose penalty this is. Differs: the model that is trained is not
    linearised; the features are normalized; embeddings count by the frequency of their tokens, since their
    factor A is diagonal.
    """

    strength: NonNegative = 8.0
    every: Count = 4
    inputs: Literal["others", "reference"] = "others"
    examples: Count = 192
    rank: CountOrZero | None = None
    summaries: list[str] = field(default_factory=list)
    of_weights: ClassVar[bool] = True

    @property
    def reads(self) -> Literal["others", "reference"] | None:
        """Whose inputs it needs; none where it is given summaries."""
        return None if self.summaries else self.inputs

    def base_cost(self, steps: int, batch_size: int) -> float:
        """Return the cost of this task's own summary; those of the others are theirs to make.

        The products of a step do not count as passes; they show in the seconds.
        """
        return self.examples / batch_size if self.reads and self.due_steps(steps) else 0.0

    def check_tasks(self, tasks: Mapping[str, BoundTask], where: str) -> None:
        """Refuse summaries that are not there, or are none; see `Penalty.check_tasks`.

        Raises:
            UserError: one is not.
        """
        problems: list[str] = []
        for file in self.summaries:
            with collecting(problems, f"{where}: summaries: "):
                KroneckerFactors.base_of(Path(file))
        if problems:
            raise UserError(*problems)

    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk at its base; see `Penalty.bind`.

        Raises:
            UserError: there are no inputs of other tasks, a file of summaries does not fit the trunk, or
                nothing that pays is trained.
        """
        device = next(trunk.parameters()).device
        if not self.summaries:
            tasks = self._reference(setting).values()
            parts = (self._factors(trunk, source, setting) for source in tasks)
        else:
            parts = (self._read(file, trunk, device) for file in self.summaries)
        return _BoundKFACDrift(self, trunk, KroneckerFactors.mean(parts))

    def _read(self, file: str, trunk: nn.Module, device: torch.device) -> KroneckerFactors:
        factors = KroneckerFactors.read(Path(file), device)
        if factors.base not in ("", digest([base_state(trunk)])):
            raise UserError(f"penalty: summaries: {file}: was made at a base with other weights")
        return factors

    def _factors(self, trunk: nn.Module, source: Unlabelled, setting: Setting) -> KroneckerFactors:
        device = next(trunk.parameters()).device

        def key() -> str:  # with a probe, which tells pooling, precision and device apart
            inputs = source.inputs(range(min(self.examples, len(source))), device)
            with torch.no_grad(), without_dropout(trunk):
                probe = source.features(trunk, {name: value[:1] for name, value in inputs.items()})
            # A layer below all that is trained has no factors, so other arms may have others.
            trained = [name for name, parameter in trunk.named_parameters() if parameter.requires_grad]
            return digest([base_state(trunk), inputs, {"features": probe}], "kfac", self.rank, trained)

        tensors = cached(
            setting.cache, key, lambda: summarize(trunk, source, self.examples).packed(self.rank), device
        )
        return KroneckerFactors.unpacked(tensors)


class _BoundKFACDrift:
    """The quadratic form of one training, with the base's weights of the layers that are in it."""

    def __init__(self, penalty: KFACDrift, trunk: nn.Module, factors: KroneckerFactors) -> None:
        self.penalty = penalty
        self.factors = factors
        self.base: dict[str, Tensor] = {}  # of what is trained; an adapter begins at 0
        self.adapted: list[str] = []
        adapters = adapted_layers(trunk)
        for name, matrices in factors.layers.items():
            try:
                layer = trunk.get_submodule(name)
                weight = flat_weight(layer)
            except AttributeError:
                raise UserError(f"penalty: summaries: layer '{name}' is not in this model") from None
            if weight.shape != (matrices.outputs.shape[0], matrices.inputs.shape[0]):
                raise UserError(f"penalty: summaries: layer '{name}' has another shape in this model")
            if name in adapters:
                self.adapted.append(name)
            elif any(parameter.requires_grad for parameter in layer.parameters()):
                self.base[name] = weight.detach().clone()
        if not self.base and not self.adapted:
            raise UserError(
                "penalty: kfac_drift: no linear layer or embedding is trained here, and nothing else pays; "
                "take drift, which looks at outputs"
            )

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the quadratic form times k lambda."""
        with torch.autocast(next(trunk.parameters()).device.type, enabled=False):
            forms = [
                _form(flat_weight(trunk.get_submodule(name)) - base, self.factors.layers[name])
                for name, base in self.base.items()
            ]
            forms += [
                _form_of_adapter(trunk.get_submodule(name), self.factors.layers[name])
                for name in self.adapted
            ]
        return self.penalty.every * self.penalty.strength * torch.stack(forms).sum()


def _form(delta: Tensor, matrices: Matrices) -> Tensor:
    """Return tr(B delta A delta') with its gradient 2 B delta A, from one product each; at least 0."""
    product = matrices.product(delta.detach())
    value = (product * delta.detach()).sum().clamp_min(0)
    return value + 2 * ((product * delta).sum() - (product * delta.detach()).sum())


def _form_of_adapter(layer: nn.Module, matrices: Matrices) -> Tensor:
    """Return the same of what an adapter adds to a layer, whose bias it leaves as it is."""
    change = factors_of(layer)
    inputs = change.down.shape[1]
    return low_rank_form(change, matrices.inputs[:inputs, :inputs], matrices.outputs)
