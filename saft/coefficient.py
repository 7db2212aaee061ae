"""The scaling coefficient: a trunk at any of them, and the choice on validation data, shared or per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from saft.merging.stream.engine import apply

__all__ = ["Point", "Scaled", "shared", "per_task"]


@dataclass(frozen=True)
class Point:
    """The validation figures of one coefficient.

    Args:
        coefficient: lambda in base + lambda * merged task vector.
        validation: task -> metric, a fraction.
    """

    coefficient: float
    validation: dict[str, float]


def shared(curve: Sequence[Point], experts: Mapping[str, float]) -> float:
    r"""Return the coefficient with the best mean normalized validation figure; of equals, the smallest.

    .. math:: \lambda^* = \arg\max_\lambda \frac1K \sum_t \frac{a_t(\lambda)}{a_t(\text{expert})}

    This is one model for all tasks, the protocol of task arithmetic (Ilharco et al., 2023).

    Args:
        curve: the figures of every coefficient tried, on the same validation examples.
        experts: task -> the single-task model's validation figure; a task at 0 is left unnormalized.

    Example:
        >>> curve = [Point(0.3, {"a": 0.6, "b": 0.2}), Point(0.6, {"a": 0.5, "b": 0.4})]
        >>> shared(curve, {"a": 1.0, "b": 0.5})
        0.6
    """

    def mean(point: Point) -> float:
        return sum(figure / (experts[task] or 1.0) for task, figure in point.validation.items()) / len(
            experts
        )

    return max(curve, key=lambda point: (mean(point), -point.coefficient)).coefficient


def per_task(curve: Sequence[Point]) -> dict[str, float]:
    """Return for each task the coefficient that validates best on it; of equals, the smallest.

    This gives up to one model per task, so its mean is no merged model's: it is the protocol of the SAFT
    paper's code, printed beside the honest one for comparison.

    Example:
        >>> curve = [Point(0.3, {"a": 0.6, "b": 0.2}), Point(0.6, {"a": 0.5, "b": 0.4})]
        >>> per_task(curve)
        {'a': 0.3, 'b': 0.6}
    """
    return {
        task: max(curve, key=lambda point: (point.validation[task], -point.coefficient)).coefficient
        for task in curve[0].validation
    }


class Scaled:
    """A trunk that can be set to base + lambda * merged task vector for any lambda.

    The weights are, to the bit, those that `saft merge` writes with this lambda.

    Args:
        trunk: at the base's weights; is changed in place.
        task_vector: name -> merged task vector; what is not named stays as in the base.
    """

    def __init__(self, trunk: nn.Module, task_vector: Mapping[str, Tensor]) -> None:
        self.trunk = trunk
        self.task_vector = task_vector
        self.base = {name: value.clone() for name, value in trunk.state_dict().items()}

    def by(self, value: float) -> nn.Module:
        """Return the trunk, set to this scaling coefficient."""
        state = {
            name: apply(tensor, self.task_vector[name], value) if name in self.task_vector else tensor
            for name, tensor in self.base.items()
        }
        self.trunk.load_state_dict(state)
        return self.trunk
