"""Drift: what the trunk makes of other inputs is to stay what the base model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.config import Count, NonNegative, checked
from saft.errors import UserError
from saft.penalties.cache import cached, digest
from saft.penalties.draws import PenaltyOnInputs
from saft.penalties.penalty import PENALTIES, BoundPenalty, Setting, without_dropout
from saft.tasks.task import BoundTask

__all__ = ["Drift"]

LIKELIEST = 64
"""Tokens whose probabilities are told apart; what is kept of the base does not grow with the vocabulary."""


@PENALTIES.register("drift")
@checked
@dataclass(frozen=True)
class Drift(PenaltyOnInputs):
    r"""How far the outputs for other inputs have moved from the base's: features, or predicted tokens.

    .. math:: P_h = \frac1n \sum_{i=1}^n \left\lVert \frac{h(x_i; w)}{\lVert h(x_i; w) \rVert}
       - \frac{h(x_i; w_0)}{\lVert h(x_i; w_0) \rVert} \right\rVert^2, \qquad
       P_p = \frac1T \sum_{t=1}^T \sum_{v \in V_t} p_v(t; w_0) \ln \frac{p_v(t; w_0)}{p_v(t; w)}

    h is the task's `features` (a text's pooled embedding), and p(t) what a language model expects to follow
    the t-th of all T tokens of the n texts, both computed without dropout. V are the 64 tokens that the base
    finds likeliest, and all others as one. Every step with the penalty draws one of the tasks, and n of its
    inputs.

    Args:
        strength: lambda, at least 0; for texts 0.5 was found to work at every step and 2 to 32 at every 8th,
            for images 2 and 0.5.
        every: k; see `Penalty`.
        ascend: see `Penalty`.
        inputs: whose: "others", the training inputs of the experiment's other tasks, unlabelled; "reference",
            those of the tasks under `reference:`; "own_shuffled", the task's own, a text's tokens or
            an image's patches in random order; "random_tokens", texts as long as the task's own of uniformly
            drawn tokens.
        examples: n, inputs of one step, at least 1.
        distinct: inputs of each task that there are to draw from; null takes its whole training split.
        outputs: what is to stay: "features", or of models that write text "predictions", the probabilities of
            the next token, in nats, at every token of a text, its completion among them.

    Example:
        >>> Drift(strength=2, every=8, examples=12).passes(steps=80, batch_size=16)
        10.0

    Source: a form of the penalty of Yoshida et al., "Mastering Task Arithmetic: tau-Jp as a Key Indicator for
    Weight Disentanglement", ICLR 2025, which is on the linearised model's outputs $J(x)(w - w_0)$. Differs:
    the model itself is held, by its normalized features, on every k-th step, with its base outputs computed
    once. Predictions are held as in Li and Hoiem, "Learning without Forgetting", ECCV 2016. Differs: of the
    next token instead of labels, at temperature 1.
    """

    strength: NonNegative = 0.5
    every: Count = 1
    outputs: Literal["features", "predictions"] = "features"

    def cost(self, batch_size: int) -> float:
        """Return the cost of a pass of n inputs."""
        return self.examples / batch_size

    def base_cost(self, steps: int, batch_size: int) -> float:
        """Return the cost of a forward pass at the base, a third of a pass, for each of its steps."""
        return len(self.due_steps(steps)) * self.cost(batch_size) / 3

    def check_tasks(self, tasks: Mapping[str, BoundTask], where: str) -> None:
        """Refuse tasks that predict no tokens, where these are to stay; see `Penalty.check_tasks`.

        Raises:
            UserError: there is one.
        """
        super().check_tasks(tasks, where)
        for name, task in tasks.items() if self.outputs == "predictions" else ():
            if not hasattr(task, "predictions"):
                raise UserError(f"{where}: {_without_predictions(name)}")

    def bind(self, trunk: nn.Module, setting: Setting) -> BoundPenalty:
        """Return the penalty on a trunk at its base; see `Penalty.bind`."""
        kind = _BoundDrift if self.outputs == "features" else _BoundPredictionDrift
        return kind(self, trunk, setting)


class _BoundDrift:
    """The drift of one training: which inputs each step draws, and what the base makes of them."""

    def __init__(self, penalty: Drift, trunk: nn.Module, setting: Setting) -> None:
        self.penalty = penalty
        self.draws = penalty.draws(setting)
        steps = penalty.due_steps(setting.steps)
        inputs = {step: self.draws.of_step(trunk, step)[1] for step in steps} if setting.cache else {}

        def key() -> str:  # with a probe of each task, which tells pooling, precision and device apart
            first = {self.draws.task(step): step for step in reversed(steps)}
            probe = self._at_base(trunk, sorted(first.values()))
            return digest([trunk.state_dict(), probe, *inputs.values()], "drift", penalty.outputs, steps)

        self.base = cached(setting.cache, key, lambda: self._at_base(trunk, steps), _device(trunk))

    def loss(self, trunk: nn.Module, step: int) -> Tensor:
        """Return how far the outputs have moved, times k lambda."""
        return self.penalty.every * self.penalty.strength * self._moved(trunk, step)

    @torch.no_grad()
    def _at_base(self, trunk: nn.Module, steps: list[int]) -> dict[str, Tensor]:
        return {
            f"{step}.{what}": tensor for step in steps for what, tensor in self._to_keep(trunk, step).items()
        }

    def _to_keep(self, trunk: nn.Module, step: int) -> dict[str, Tensor]:
        """Return what is kept of the base's outputs for the inputs of a step."""
        return {"features": self._features(trunk, step)}

    def _moved(self, trunk: nn.Module, step: int) -> Tensor:
        """Return the distance of the outputs from those that were kept, 0-dim."""
        distance = self._features(trunk, step) - self.base[f"{step}.features"]
        return distance.square().sum(-1).mean()

    def _features(self, trunk: nn.Module, step: int) -> Tensor:
        source, inputs = self.draws.of_step(trunk, step)
        with without_dropout(trunk):
            features = source.features(trunk, inputs)
        return functional.normalize(features.float(), dim=-1)


class _BoundPredictionDrift(_BoundDrift):
    """The same of the tokens that a language model expects."""

    def _to_keep(self, trunk: nn.Module, step: int) -> dict[str, Tensor]:
        log_p = self._log_p(trunk, step)
        likeliest = log_p.topk(min(LIKELIEST, log_p.shape[1] - 1))
        return {"tokens": likeliest.indices, "log_p": _with_rest(likeliest.values)}

    def _moved(self, trunk: nn.Module, step: int) -> Tensor:
        tokens, base = self.base[f"{step}.tokens"], self.base[f"{step}.log_p"]
        now = _with_rest(self._log_p(trunk, step).gather(1, tokens))
        return (base.exp() * (base - now)).sum(-1).mean()

    def _log_p(self, trunk: nn.Module, step: int) -> Tensor:
        """Return log p of what follows each token of a step's texts, [tokens, vocabulary]."""
        source, inputs = self.draws.of_step(trunk, step)
        if source.predictions is None:
            raise UserError(f"penalty: {_without_predictions(self.draws.task(step))}")
        with without_dropout(trunk):
            logits = source.predictions(trunk, inputs)
        return logits.float().log_softmax(-1)


def _without_predictions(task: str) -> str:
    return (
        f"outputs: predictions: task '{task}' predicts no tokens, as language_modeling and text_to_text do; "
        "leave `outputs` out, which holds the features"
    )


def _with_rest(log_p: Tensor) -> Tensor:
    """Return log-probabilities of some outcomes with that of all others behind them, [..., outcomes + 1]."""
    rest = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([log_p, rest], -1)


def _device(trunk: nn.Module) -> torch.device:
    return next(trunk.parameters()).device
