"""The merged model against its experts: absolute and normalized accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MergedAccuracy", "merged_accuracy"]


@dataclass(frozen=True)
class MergedAccuracy:
    """What `merged_accuracy` returns.

    Attributes:
        absolute: mean accuracy of the merged model over tasks.
        normalized: mean of the ratios; None when no expert has an accuracy above 0.
        ratios: task -> merged / expert; None where the expert's accuracy is 0.
        gaps: task -> expert - merged, in accuracy; positive where merging lost.
    """

    absolute: float
    normalized: float | None
    ratios: dict[str, float | None]
    gaps: dict[str, float]


def merged_accuracy(merged: Mapping[str, float], experts: Mapping[str, float]) -> MergedAccuracy:
    """Compare a merged model with the single-task models it was made from.

    ``absolute = mean_t acc_t(merged)``, ``normalized = mean_t acc_t(merged) / acc_t(expert_t)``

    The ratio has no meaning for an expert whose accuracy is 0: it is None and that task is left out of the
    normalized mean (of that mean alone: absolute and gaps keep it).

    Args:
        merged: task -> accuracy of the merged model, in [0, 1].
        experts: task -> accuracy of that task's own model, in [0, 1]; the same tasks.

    Raises:
        ValueError: the tasks differ, or there is none.

    Example:
        >>> merged_accuracy({"a": 0.4, "b": 0.9}, {"a": 0.8, "b": 0.9}).normalized
        0.75

    Source:
        Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089.
    """
    if set(merged) != set(experts) or not merged:
        raise ValueError(f"merged and experts must name the same tasks: {sorted(merged)}, {sorted(experts)}")
    ratios = {task: merged[task] / experts[task] if experts[task] > 0 else None for task in merged}
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return MergedAccuracy(
        absolute=sum(merged.values()) / len(merged),
        normalized=sum(known) / len(known) if known else None,
        ratios=ratios,
        gaps={task: experts[task] - merged[task] for task in merged},
    )
