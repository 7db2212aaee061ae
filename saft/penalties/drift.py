"""Drift: what the trunk makes of other inputs is to stay where the base model put it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.config import Count, NonNegative, checked
from saft.errors import UserError
from saft.penalties.cache import cached, digest
from saft.penalties.penalty import PENALTIES, BoundPenalty, Penalty, Setting, without_dropout
from saft.penalties.unlabelled import Inputs, Unlabelled, drawn, shuffled, with_random_tokens

__all__ = ["Drift"]


@PENALTIES.register("drift")
@checked
@dataclass(frozen=True)
class Drift(Penalty):
    r"""How far the features of other inputs have moved from the base's.

    .. math:: P = \frac1n \sum_{i=1}^n \left\lVert \frac{h(x_i; w)}{\lVert h(x_i; w) \rVert}
       - \frac{h(x_i; w_0)}{\lVert h(x_i; w_0) \rVert} \right\rVert^2

    h is the task's `features` (a text's pooled embedding), computed without dropout. Every step with the
    penalty draws one of the tasks, and n of its inputs.

    Args:
        strength: lambda, at least 0; 2 for texts, 0.5 for images were found to work.
        every: k; see `Penalty`.
        ascend: see `Penalty`.
        inputs: whose: "others", the training inputs of the experiment's other tasks, unlabelled; "reference",
            those of the tasks under `reference:`; "own_shuffled", the task's own texts with their tokens in
            random order; "random_tokens", texts as long as the task's own of uniformly drawn tokens.
        examples: n, inputs of one step, at least 1.
        distinct: inputs of each task that there are to draw from; null takes its whole training split.

    Example:
        >>> Drift(strength=2, every=8, examples=12).passes(steps=80, batch_size=16)
        10.0

    Source: a form of the penalty of Yoshida et al., "Mastering Task Arithmetic: tau-Jp as a Key Indicator for
    Weight Disentanglement", ICLR 2025, which is on the linearised model's outputs $J(x)(w - w_0)$. Differs:
    the model itself is held, by its normalized features, on every k-th step, with its base outputs computed
    once.
    """

    strength: NonNegative = 2.0
    every: Count = 8
    inputs: Literal["others", "reference", "own_shuffled", "random_tokens"] = "others"
    examples: Count = 16
    distinct: Count | None = None

    @property
    def reads(self) -> Literal["others", "reference"] | None:
        """Whose inputs it needs besides the task's own."""
        return self.inputs if self.inputs in ("others", "reference") else None

    def cost(self, batch_size: int) -> float:
        """Return the cost of a pass of n inputs."""
        return self.examples / batch_size

    def base_cost(self, steps: int, batch_size: int) -> float:
        """Return the cost of a forward pass at the base, a third of a pass, for each of its steps."""
        return len(self.due_steps(steps)) * self.cost(batch_size) / 3

    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk at its base; see `Penalty.bind`."""
        sources = self._reference(setting) if self.reads else {"own": setting.own}
        return _BoundDrift(self, sources, trunk, setting)


class _BoundDrift:
    """The drift of one training: which inputs each step draws, and what the base makes of them."""

    def __init__(
        self, penalty: Drift, sources: dict[str, Unlabelled], trunk: nn.Module, setting: Setting
    ) -> None:
        self.penalty = penalty
        self.sources = sources
        self.seed = setting.seed
        self.sizes = {name: min(penalty.distinct or len(some), len(some)) for name, some in sources.items()}
        empty = [name for name, size in self.sizes.items() if not size]
        if empty:
            raise UserError(f"penalty: inputs: task '{empty[0]}' has no training examples")
        steps = penalty.due_steps(setting.steps)
        inputs = {step: self._inputs(trunk, step) for step in steps} if setting.cache else {}

        def key() -> str:  # with a probe, which tells pooling, precision and device apart
            probe = {"features": self._base_features(trunk, steps[0])} if steps else {}
            return digest([trunk.state_dict(), probe, *inputs.values()], "drift", steps)

        outputs = cached(
            setting.cache,
            key,
            lambda: {str(step): self._base_features(trunk, step) for step in steps},
            _device(trunk),
        )
        self.base_features = {int(step): features for step, features in outputs.items()}

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the mean squared distance of the normalized features, times k lambda."""
        distance = self._features(trunk, step) - self.base_features[step]
        return self.penalty.every * self.penalty.strength * distance.square().sum(-1).mean()

    @torch.no_grad()
    def _base_features(self, trunk: nn.Module, step: int) -> Tensor:
        return self._features(trunk, step)

    def _features(self, trunk: nn.Module, step: int) -> Tensor:
        name, _ = self._drawn(step)
        with without_dropout(trunk):
            features = self.sources[name].features(trunk, self._inputs(trunk, step))
        return functional.normalize(features.float(), dim=-1)

    def _drawn(self, step: int) -> tuple[str, list[int]]:
        return drawn(self.sizes, self.penalty.examples, self.seed, step)

    def _inputs(self, trunk: nn.Module, step: int) -> Inputs:
        name, indices = self._drawn(step)
        inputs = self.sources[name].inputs(indices, _device(trunk))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if self.penalty.inputs == "own_shuffled":
            return shuffled(inputs, generator)
        if self.penalty.inputs == "random_tokens":
            return with_random_tokens(inputs, _vocabulary(trunk), generator)
        return inputs


def _device(trunk: nn.Module) -> torch.device:
    return next(trunk.parameters()).device


def _vocabulary(trunk: nn.Module) -> int:
    """Return how many tokens the trunk knows."""
    embeddings = getattr(trunk, "get_input_embeddings", lambda: None)()
    if not isinstance(embeddings, nn.Embedding):
        raise UserError("penalty: inputs: random_tokens: needs a model of texts, with token embeddings")
    return embeddings.num_embeddings
