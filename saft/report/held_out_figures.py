"""The figures of tasks that are held out: scores over the coefficient, and what is given up for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saft.report.drawing import NAMED, arms_key, at_least, mark_of, panels, stroke_of
from saft.report.scale_curves import Curve, curves_figure
from saft.report.summary import Summary
from saft.report.verdict import in_words, with_unit
from saft.tasks.metric import Metric

__all__ = ["held_out_curves", "trade_off_figure"]

NEAR = 0.15  # of a panel's width and height: labels would lie on each other

Path = Sequence[tuple[float, float, float]]
"""Coefficient, score on the tasks held out, score on the trained ones; as printed, by the coefficient."""


def held_out_curves(summary: Summary, size: str, metric: Metric, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each merge method: validation score on the tasks held out, by coefficient.

    Args:
        summary: the experiment.
        size: the train size.
        metric: of the tasks held out that the means are over.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure, so that they are its own on the page.
    """
    curves: dict[str, dict[str, Curve]] = {}
    chosen: dict[str, dict[str, list[float]]] = {}
    for row in summary.of_size(size):
        for method, curve in row.held_out[metric].curves.items():
            title = summary.title(method)
            merge = row.by_metric[summary.metrics[0]].merges[method]
            curves.setdefault(title, {})[row.arm] = curve
            chosen.setdefault(title, {})[row.arm] = sorted(
                set(merge.shared_coefficients.values()) & set(curve)
            )
    return curves_figure(
        curves,
        {row.arm: colour[row.arm] for row in summary.of_size(size)},
        name,
        f"{size}: validation {in_words(metric)} on tasks held out over the scaling coefficient, by merge "
        "method and arm",
        along="scaling coefficient",
        up=f"held out, {with_unit(metric)}",
        scale=metric.scale,
        rings=chosen,
    )


def trade_off_figure(
    summary: Summary, size: str, held: Metric, trained: Metric, colour: Mapping[str, str], name: str
) -> str:
    """Return a panel for each merge method: the trained tasks against those held out, along the coefficient.

    Args:
        summary, size, colour, name: as in `held_out_curves`.
        held: metric of the tasks held out.
        trained: metric of the trained tasks.
    """
    paths: dict[str, dict[str, Path]] = {}
    for row in summary.of_size(size):
        for method, curve in row.held_out[held].curves.items():
            own = row.by_metric[trained].merges[method].curve
            path = [
                (at, held.scale * curve[at].mean, trained.scale * own[at].mean) for at in curve if at in own
            ]
            if len(path) > 1:
                paths.setdefault(method, {})[row.arm] = path
    if not paths:
        return ""
    start = [
        summary.base_over(tasks, validation=True)
        for tasks in (summary.held_out_of[held], summary.tasks_of[trained])
    ]

    def draw(axes: Any, method: str, leftmost: bool) -> None:
        for arm, path in paths[method].items():
            x, y = [at[1] for at in path], [at[2] for at in path]
            axes.plot(x, y, **mark_of(colour[arm]) | stroke_of(colour[arm]) | {"markersize": 4})
        if start[0] is not None and start[1] is not None:
            point = [held.scale * start[0]], [trained.scale * start[1]]
            axes.plot(*point, "+", color=NAMED["ink"], markersize=9)
        axes.set_xlabel(f"held out, {with_unit(held)}")
        axes.margins(x=0.12, y=0.1)
        at_least(axes, "x")
        at_least(axes, "y")
        _written_ends(axes, paths[method].values())
        axes.grid()
        if leftmost:
            axes.set_ylabel(f"trained, {with_unit(trained)}")

    label = (
        f"{size}: validation {in_words(trained)} on the trained tasks against {in_words(held)} on those held "
        "out, along the scaling coefficient, by merge method and arm"
    )
    shown = {row.arm: colour[row.arm] for row in summary.of_size(size)}
    abreast = max(2, min(4, len(paths)))
    return panels(list(paths), draw, name, label, abreast=abreast, height=2.0, left=0.65, key=arms_key(shown))


def _written_ends(axes: Any, paths: Iterable[Path]) -> None:
    """Write the least and the greatest coefficient of each path; the same at the same place once."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    written: list[tuple[str, float, float]] = []
    for path in paths:
        for coefficient, x, y in (path[0], path[-1]):
            text, across, up = f"{coefficient:g}", (x - left) / (right - left), (y - bottom) / (top - bottom)
            if any(text == other and abs(across - a) + abs(up - b) < NEAR for other, a, b in written):
                continue
            written.append((text, across, up))
            axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", color=NAMED["muted"])
