"""Three tasks on a trunk of two layers: small enough that every measure can be computed densely beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from saft.interference.task_space import Response, Scored, TaskSpace

TASKS = ["a", "b", "c"]
SCALING = 0.4


class ToyProbe:
    """A task of twelve random vectors and two labels, with a fixed head."""

    higher_is_better = True

    def __init__(self, trunk: nn.Sequential, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.trunk = trunk
        self.x = torch.randn(12, 4, generator=draw)
        self.y = torch.randint(0, 2, (12,), generator=draw)
        self.head = torch.randn(2, 3, generator=draw)
        self.module = trunk
        self.batches = [(self.x[:6], self.y[:6]), (self.x[6:], self.y[6:])]
        self.forwards = 0.0

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        self.forwards += len(x) / len(self.x)
        return functional.cross_entropy(self.trunk(x) @ self.head.T, y)

    @torch.no_grad()
    def response(self) -> Response:
        features = self.trunk(self.x)
        self.forwards += 1
        logits = features @ self.head.T
        return Response(float(functional.cross_entropy(logits, self.y)), logits.argmax(-1), features)

    @torch.no_grad()
    def score(self) -> Scored:
        self.forwards += 1
        right = ((self.trunk(self.x) @ self.head.T).argmax(-1) == self.y).double()
        return Scored(float(right.mean()), 0.1, right)

    @torch.no_grad()
    def outputs(self) -> Tensor:
        self.forwards += 1
        return self.trunk(self.x) @ self.head.T

    @torch.no_grad()
    def layers(self) -> dict[str, Tensor]:
        self.forwards += 1
        return {"0": self.trunk[0](self.x), "2": self.trunk(self.x)}


class Dense:
    """The same models, each with all its weights written out, and evaluated without the space."""

    def __init__(self, space: TaskSpace) -> None:
        self.space = space
        self.base = {name: value.clone() for name, value in space.base.items()}
        self.vectors = {
            task: {name: value - self.base[name] for name, value in weights.items()}
            for task, weights in space.experts.items()
        }

    def weights(self, coefficients: Mapping[str, float]) -> dict[str, Tensor]:
        return {
            name: value + sum(c * self.vectors[task][name] for task, c in coefficients.items())
            for name, value in self.base.items()
        }

    def features(self, task: str, coefficients: Mapping[str, float]) -> Tensor:
        return functional_call(self.space.trunk, self.weights(coefficients), self.space.probes[task].x)

    def logits(self, task: str, coefficients: Mapping[str, float]) -> Tensor:
        return self.features(task, coefficients) @ self.space.probes[task].head.T

    def predictions(self, task: str, coefficients: Mapping[str, float]) -> list[int]:
        return self.logits(task, coefficients).argmax(-1).tolist()

    def loss(self, task: str, coefficients: Mapping[str, float]) -> float:
        log_p = self.logits(task, coefficients).log_softmax(-1)
        return -float(log_p[torch.arange(12), self.space.probes[task].y].mean())

    def score(self, task: str, coefficients: Mapping[str, float]) -> float:
        return sum(self.right(task, coefficients)) / 12

    def right(self, task: str, coefficients: Mapping[str, float]) -> list[int]:
        pairs = zip(self.predictions(task, coefficients), self.space.probes[task].y.tolist(), strict=True)
        return [int(told == right) for told, right in pairs]

    def paired_error(self, task: str, one: Mapping[str, float], other: Mapping[str, float]) -> float:
        """The standard error of a mean difference, written out, or with one example more of either way."""
        pairs = zip(self.right(task, one), self.right(task, other), strict=True)
        apart = [a - b for a, b in pairs]
        two_more = statistics.pstdev([*apart, 1, -1]) / math.sqrt(14)
        return max(statistics.stdev(apart) / math.sqrt(12), two_more)


def toy_space() -> TaskSpace:
    """Return a space whose merge is the sum of the task vectors."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    base = {name: value.clone() for name, value in trunk.state_dict().items()}
    experts = {
        task: {name: value + 0.7 * torch.randn(value.shape) for name, value in base.items()} for task in TASKS
    }

    def merge(tasks: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: sum(experts[task][name] - base[name] for task in tasks) for name in base}

    probes = {task: ToyProbe(trunk, seed) for seed, task in enumerate(TASKS)}
    return TaskSpace(trunk, base, experts, probes, merge, SCALING)
