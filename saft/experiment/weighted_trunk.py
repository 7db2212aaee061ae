"""A merged trunk with a weight for each task, or for each task along the layers, from vectors in memory."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from saft.experiment.scaled_trunk import ScaledTrunk
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.task_arithmetic import TaskArithmetic
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.merging.varying import methods_by_tensor

__all__ = ["Weights", "WeightedTrunk", "with_weights"]

Weights = Mapping[str, Sequence[float]]
"""Task -> its weight, or its weights along the layers: from the first to the last, with lines between."""


class WeightedTrunk:
    r"""A trunk that can be set to :math:`\theta_0 + \sum_t w_{tl}\, \tau_t` for any weights.

    The task vectors are read once, and held: K models in memory. The result is, to the bit, what `saft merge`
    writes of `with_weights`.

    Args:
        scaled: the trunk, at the base's weights; is changed in place.
        plan: of a merge of the models, from `check`; its method does not matter.
    """

    def __init__(self, scaled: ScaledTrunk, plan: Plan) -> None:
        self._scaled = scaled
        self._tasks = list(plan.models)
        blocks = itertools.groupby(engine.task_vectors(plan), key=operator.itemgetter(0))
        self._vectors = {name: torch.cat([block for _, block in parts], dim=1) for name, parts in blocks}
        self._shapes = {name: plan.base.headers[name].shape for name in self._vectors}

    def by(self, weights: Weights) -> nn.Module:
        """Return the trunk, set to these weights.

        Args:
            weights: task -> its weight, or its weights along the layers.
        """
        settings = [list(weights[task]) for task in self._tasks]
        methods = methods_by_tensor(TaskArithmetic(), {"weights": settings}, list(self._vectors))
        merged = {
            name: engine.merge_task_vectors(methods[name], vectors).view(self._shapes[name])
            for name, vectors in self._vectors.items()
        }
        self._scaled.take(merged)
        return self._scaled.by(1.0)


def with_weights(merge: MergeConfig, weights: Weights) -> MergeConfig:
    """Return a merge by task arithmetic with a weight for each task, in place of one coefficient.

    Args:
        merge: of the same models.
        weights: task -> its weight, or its weights along the layers.

    Example:
        >>> merge = MergeConfig("task_arithmetic", "base", {"a": "runs/a", "b": "runs/b"}, scaling=0.4)
        >>> with_weights(merge, {"a": [0.3], "b": [0.5]}).parameters
        {'weights': [0.3, 0.5]}
        >>> with_weights(merge, {"a": [0.3, 0.4], "b": [0.5, 0.5]}).varying
        {'weights': [[0.3, 0.4], [0.5, 0.5]]}
    """
    settings = [list(weights[task]) for task in merge.by_task()]
    if all(len(setting) == 1 for setting in settings):
        parameters, varying = {"weights": [weight for (weight,) in settings]}, {}
    else:
        parameters, varying = {}, {"weights": settings}
    return dataclasses.replace(
        merge, method="task_arithmetic", parameters=parameters, varying=varying, scaling=1.0
    )
