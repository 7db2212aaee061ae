"""Experts, one mark each: what they are before the merge against what the merge leaves of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from saft.interference.quantity import Quantity
from saft.report.arm_summary import ArmSummary, common_methods
from saft.report.drawing import BELOW, NAMED, arms_key, at_least, mark_of, panels
from saft.report.kept_parts import method_title
from saft.report.measured import heading, without_errors
from saft.report.over_seeds import complete_mean, finite_over_seeds, signed
from saft.report.results import Results
from saft.report.scale_curves import Curve, curves_figure
from saft.report.verdict import in_words, unit_of_differences
from saft.report.with_interval import task_estimate
from saft.tasks.estimate import spearman
from saft.tasks.metric import Metric

__all__ = ["lost_figure", "rank_correlation", "retained_figure", "training_figure"]

Points = dict[str, list[tuple[float, float]]]  # arm -> (x, y) of each of its experts


def retained_figure(
    rows: Sequence[ArmSummary], metric: Metric, tasks: Sequence[str], colour: Mapping[str, str], name: str
) -> str:
    """Return a panel for each merge method: each task's merged score over that of its single-task model.

    Args:
        rows: the arms, at one train size.
        metric: of the tasks.
        tasks: those that have it.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure.
    """
    shown: dict[str, Points] = {}
    for row in rows:
        experts = row.by_metric[metric].experts.tasks
        for method, merge in row.by_metric[metric].merges.items():
            merged = merge.shared.tasks
            shown.setdefault(method_title(method, merge.parts), {})[row.arm] = [
                (metric.scale * experts[task].mean, metric.scale * merged[task].mean)
                for task in tasks
                if task in experts and task in merged
            ]
    values = [value for points in shown.values() for of in points.values() for point in of for value in point]
    if not values:
        return ""
    margin = 0.05 * (max(values) - min(values)) or 0.5
    ends = min(values) - margin, max(values) + margin
    unit = f", {metric.unit}" if metric.unit else ""

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        axes.plot(ends, ends, color=NAMED["rule"], linewidth=1.2)
        _marks(axes, shown[title], colour)
        axes.set(xlim=ends, ylim=ends, xlabel=f"single-task models{unit}")
        axes.locator_params(nbins=5)
        axes.grid()
        if leftmost:
            axes.set_ylabel(f"merged model{unit}")
        else:
            axes.set_yticklabels([])

    label = f"{in_words(metric)} of merged models over that of single-task models, by method, arm and task"
    return panels(
        list(shown), draw, name, label,
        abreast=4, height=2.1, left=0.65, key=arms_key({row.arm: colour[row.arm] for row in rows}),
    )  # fmt: skip


def lost_figure(
    rows: Sequence[ArmSummary],
    metric: Metric,
    tasks: Sequence[str],
    quantities: Mapping[str, Quantity],
    colour: Mapping[str, str],
    name: str,
) -> str:
    """Return a panel for each quantity that an expert has: what its task loses in the merge over it.

    Args:
        rows, metric, tasks, colour, name: as in `retained_figure`.
        quantities: name -> what it is; those that each task has are drawn.
    """
    common = common_methods(row.by_metric[metric] for row in rows)
    lost = {
        (row.arm, task): loss
        for row in rows
        for task in tasks
        if (loss := _lost(row, metric, task, common)) is not None
    }
    shown: dict[str, tuple[Quantity, Points, float]] = {}
    unit = unit_of_differences(metric)
    for quantity, what in without_errors(quantities).items():
        points: Points = {}
        for row in rows:
            numbers = row.measured[quantity].numbers
            points[row.arm] = [
                (what.scale * numbers[(task,)].mean, metric.scale * lost[row.arm, task])
                for task in tasks
                if (task,) in numbers and (row.arm, task) in lost
            ]
        every = [point for of_arm in points.values() for point in of_arm]
        printed = {what.format(x / what.scale) for x, _ in every}  # less is round-off, which has ranks too
        if what.per == "task" and len(printed) > 2:
            shown[quantity.replace("_", " ")] = (what, points, rank_correlation(every))
    if not shown:
        return ""
    heights = [y for _, points, _ in shown.values() for of_arm in points.values() for _, y in of_arm]
    margin = 0.06 * (max(heights) - min(heights)) or 0.5

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        what, points, related = shown[title]
        _marks(axes, points, colour)
        related_in_words = f"rank correlation {signed(related, decimals=2)}"
        axes.set(
            xlabel=f"{heading(title, what)}\n{related_in_words}",
            ylim=(min(heights) - margin, max(heights) + margin),
        )
        axes.locator_params(nbins=5)
        axes.margins(x=0.08)
        at_least(axes, "x")
        axes.grid()
        if leftmost:
            axes.set_ylabel(f"lost in the merge,{unit}" if unit else "lost in the merge")
        else:
            axes.set_yticklabels([])

    return panels(
        list(shown), draw, name, f"{metric.name} lost in the merge over {', '.join(shown)}",
        abreast=4, height=1.8, left=0.65, below=BELOW + 0.12,
        key=arms_key({row.arm: colour[row.arm] for row in rows}),
    )  # fmt: skip


def training_figure(results: Results, size: str, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each task: the training loss over the steps, a line for each arm.

    Args:
        results: the experiment.
        size: the train size.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure.
    """
    cells = [cell for cell in results.cells if cell.train_size == size]
    arms = dict.fromkeys(cell.arm for cell in cells)
    curves: dict[str, dict[str, Curve]] = {}
    for task in results.protocol.tasks:
        for arm in arms:
            by_step: dict[float, dict[int, float | None]] = {}
            for cell in (cell for cell in cells if cell.arm == arm):
                for step, loss in cell.experts[task].losses:
                    by_step.setdefault(step, {})[cell.seed] = loss
            curve = {step: finite_over_seeds(of) for step, of in by_step.items()}
            curves.setdefault(task, {})[arm] = {x: values for x, values in curve.items() if values}
    return curves_figure(
        curves, {arm: colour[arm] for arm in arms}, name,
        f"{size}: training loss over the steps, by task and arm",
        along="step", up="training loss",
    )  # fmt: skip


def rank_correlation(points: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation, equal values at the mean of their ranks; 0 where one never changes.

    Args:
        points: (x, y), at least one.

    Returns:
        In [-1, 1].

    Example:
        >>> round(rank_correlation([(1.0, 2.0), (2.0, 3.0), (3.0, 9.0), (4.0, 8.0)]), 3)
        0.8
    """
    return spearman(*torch.tensor(points, dtype=torch.float64).T).value


def _lost(row: ArmSummary, metric: Metric, task: str, common: Sequence[str]) -> float | None:
    """Return what the merge takes of a task's score, mean over the methods in common; above 0 is a loss."""
    scores = row.by_metric[metric]
    expert = task_estimate([scores.experts], task)
    methods = scores.beside_others(common)
    merged = task_estimate([scores.merges[method].shared for method in methods], task)
    if expert is None or merged is None or (change := expert.values.minus(merged.values)) is None:
        return None
    return complete_mean(
        change.by_seed.values() if metric.higher_is_better else (-v for v in change.by_seed.values())
    )


def _marks(axes: Any, points: Points, colour: Mapping[str, str]) -> None:
    for arm, of_arm in points.items():
        x, y = zip(*of_arm, strict=True) if of_arm else ((), ())
        axes.plot(x, y, linestyle="", **mark_of(colour[arm]))
