"""What experts and merges keep on tasks that are held out, every figure over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from saft.report.cell_result import BaseResult, CellResult, MergeFigures, Split
from saft.report.over_seeds import OverSeeds, complete_mean, finite_over_seeds
from saft.tasks.metric import Score

__all__ = ["HeldOutScores", "HeldOutSummary", "held_out_summary", "lost_held_out"]


@dataclass(frozen=True)
class HeldOutScores:
    """Models of one sort on the tasks held out that have one metric.

    Attributes:
        mean: raw value, mean over these tasks; None unless all are there.
        tasks: task -> raw value.
        change: of the mean, over that of the pretrained model; None where one of its scores is missing.
    """

    mean: OverSeeds | None
    tasks: dict[str, OverSeeds]
    change: OverSeeds | None


@dataclass(frozen=True)
class HeldOutSummary:
    """One arm at one train size on the tasks held out that have one metric.

    Attributes:
        experts: mean over the experts of all tasks.
        merges: method -> its merge with the shared coefficient; none of a method that gives no single model.
        curves: method -> coefficient -> raw validation value, mean over the tasks held out.
        weighted: method -> its merge with a weight for each task, where these were searched.
    """

    experts: HeldOutScores
    merges: dict[str, HeldOutScores]
    curves: dict[str, dict[float, OverSeeds]]
    weighted: dict[str, HeldOutScores]


def held_out_summary(
    cells: Mapping[int, CellResult], base: Mapping[str, BaseResult], tasks: Sequence[str], split: Split
) -> HeldOutSummary:
    """Return what the cells of an arm keep.

    Args:
        cells: seed -> cell, at one train size.
        base: task -> the pretrained model's scores.
        tasks: held out, of one metric.
        split: which scores are reported.
    """
    known = {t: score.value for t, of in base.items() if (score := of.on(split)) is not None}
    experts = {seed: {t: _mean_of_experts(cell, t, split) for t in tasks} for seed, cell in cells.items()}
    merges, curves, weighted = {}, {}, {}
    for method in dict.fromkeys(method for cell in cells.values() for method in cell.merges):
        merged = {seed: cell.merges[method] for seed, cell in cells.items() if method in cell.merges}
        scores = {seed: _merged(merge, split) for seed, merge in merged.items()}
        if not any(task in of for of in scores.values() for task in tasks):
            continue
        merges[method] = _scores(_values(scores, tasks), known, tasks)
        curves[method] = _curve(merged, tasks)
        weighed = {seed: _of_split(m.weighted.held_out, split) for seed, m in merged.items() if m.weighted}
        if weighed:
            weighted[method] = _scores(_values(weighed, tasks), known, tasks)
    return HeldOutSummary(_scores(experts, known, tasks), merges, curves, weighted)


def lost_held_out(cell: CellResult, split: Split) -> Iterator[str]:
    """Yield in words what was computed of a cell and is not finite: no mean holds it.

    Args:
        cell: of one arm, train size and seed.
        split: which scores are reported.
    """
    models: dict[str, Mapping[str, Score]] = {
        f"the expert of {task}": _of_split(expert.held_out, split) for task, expert in cell.experts.items()
    }
    models |= {method: _merged(merge, split) for method, merge in cell.merges.items()}
    models |= {
        f"{method} with searched weights": _of_split(merge.weighted.held_out, split)
        for method, merge in cell.merges.items()
        if merge.weighted is not None
    }
    for whose, of_tasks in models.items():
        if broken := [task for task, score in of_tasks.items() if not math.isfinite(score.value)]:
            yield f"score of {whose} on {', '.join(broken)}"


def _merged(merge: MergeFigures, split: Split) -> Mapping[str, Score]:
    """Return task that is held out -> score with the shared coefficient."""
    if split == "test":
        return merge.shared.held_out
    return next(p.held_out for p in merge.curve if p.coefficient == merge.shared.coefficient)


def _of_split(scores: Mapping[str, BaseResult], split: Split) -> dict[str, Score]:
    return {task: score for task, of in scores.items() if (score := of.on(split)) is not None}


def _values(
    scores: Mapping[int, Mapping[str, Score]], tasks: Sequence[str]
) -> dict[int, dict[str, float | None]]:
    return {seed: {task: _value(of.get(task)) for task in tasks} for seed, of in scores.items()}


def _mean_of_experts(cell: CellResult, task: str, split: Split) -> float | None:
    known = (expert.held_out.get(task) for expert in cell.experts.values())
    return complete_mean(_value(of.on(split)) if of is not None else None for of in known)


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def _scores(
    values: Mapping[int, Mapping[str, float | None]], base: Mapping[str, float], tasks: Sequence[str]
) -> HeldOutScores:
    by_task = {task: finite_over_seeds({seed: of[task] for seed, of in values.items()}) for task in tasks}
    mean = finite_over_seeds({seed: complete_mean(of.values()) for seed, of in values.items()})
    change = None
    if mean is not None and all(task in base for task in tasks):
        start = fmean(base[task] for task in tasks)
        change = finite_over_seeds({seed: value - start for seed, value in mean.by_seed.items()})
    return HeldOutScores(mean, {task: of for task, of in by_task.items() if of is not None}, change)


def _curve(merges: Mapping[int, MergeFigures], tasks: Sequence[str]) -> dict[float, OverSeeds]:
    points: dict[float, dict[int, float | None]] = {}
    for seed, merge in merges.items():
        for point in merge.curve:
            mean = complete_mean(_value(point.held_out.get(task)) for task in tasks)
            points.setdefault(point.coefficient, {})[seed] = mean
    curve = {coefficient: finite_over_seeds(points[coefficient]) for coefficient in sorted(points)}
    return {coefficient: values for coefficient, values in curve.items() if values is not None}
