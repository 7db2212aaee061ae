"""What of its experts' scores a merged model keeps."""

from __future__ import annotations

import math

__all__ = ["gain_kept", "normalized", "worth"]


def normalized(merged: float, expert: float, higher_is_better: bool = True) -> float | None:
    """Return the merged model's score on a task over that of the task's own model; 1 is as good as it.

    ``merged / expert``, and ``expert / merged`` where lower is better

    Args:
        merged: score of the merged model, at least 0 (an accuracy, a perplexity).
        expert: score of the single-task model, at least 0.
        higher_is_better: the direction of the score.

    Returns:
        The ratio; None where it has no meaning: a score is not finite or below 0, or the divisor is 0.

    Example:
        >>> normalized(0.4, 0.8), normalized(20.0, 10.0, higher_is_better=False), normalized(0.1, 0.0)
        (0.5, 0.5, None)

    Source:
        Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089, for accuracies.
    """
    above, below = (merged, expert) if higher_is_better else (expert, merged)
    if not (math.isfinite(above) and math.isfinite(below) and above >= 0 and below > 0):
        return None
    return above / below


def gain_kept(merged: float, base: float, expert: float) -> float | None:
    """Return the share of what fine-tuning gained on a task that is left after merging.

    ``(merged - base) / (expert - base)``

    Whichever way is better: 1 is the expert, 0 the pretrained model, below 0 is worse than that.

    Args:
        merged: score of the merged model.
        base: score of the pretrained model.
        expert: score of the single-task model.

    Returns:
        The share; None where fine-tuning changed nothing, or a score is not finite.

    Example:
        >>> gain_kept(0.5, base=0.25, expert=0.75), gain_kept(20.0, base=30.0, expert=10.0)
        (0.5, 0.5)
    """
    if not all(map(math.isfinite, (merged, base, expert))) or expert == base:
        return None
    return (merged - base) / (expert - base)


def worth(value: float, expert: float, higher_is_better: bool = True) -> float:
    """Return what a score is worth in a search: in parts of the expert's, and more is better.

    ``value / expert``, and ``expert / value`` where lower is better

    Args:
        value: score of a model.
        expert: score of the single-task model. One at 0 or below, as a correlation may be, is no measure, and
            then the score is its own worth, its sign turned where lower is better.
        higher_is_better: the direction of the score.

    Example:
        >>> worth(0.4, 0.8), worth(20.0, 10.0, higher_is_better=False), worth(0.4, -0.1)
        (0.5, 0.5, 0.4)
    """
    if higher_is_better:
        return value / expert if expert > 0 else value
    return expert / value if expert > 0 and value > 0 else -value
