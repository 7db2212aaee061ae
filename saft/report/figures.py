"""The figures of scores: each arm's experts and merged models, and scores over the coefficient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, Literal

from saft.report.drawing import NAMED, SMALLEST_SPAN, WIDTH, mark_of, panels, shade_of
from saft.report.headline import Headline
from saft.report.over_seeds import OverSeeds
from saft.report.row_names import RowNames
from saft.report.scale_curves import Curve, curves_figure
from saft.report.summary import Summary
from saft.report.verdict import in_words, with_unit
from saft.report.with_interval import Estimate
from saft.tasks.metric import Metric
from saft.written import as_number

__all__ = ["curve_figure", "headline_figure", "score_figure", "task_figure"]

FEW = 8  # rows, of which each has room for its numbers above and below
NARROW = 4.0  # inches: wide enough to be read beside the answer, and on a telephone


def headline_figure(
    headline: Headline, colour: Mapping[str, str], name: str, beside: Iterable[Headline] = ()
) -> str:
    """Return the picture of the answer: a row for each arm, its experts and its merged models.

    Args:
        headline: of one train size and metric.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure, so that they are its own on the page.
        beside: others, whose pictures it is compared with: those of its metric have one axis.
    """
    metric = headline.metric
    pairs = {arm: (headline.experts[arm], merged) for arm, merged in headline.merged.items()}
    if not pairs:
        return ""
    of_metric = [other for other in beside if other.metric == metric]
    compared = [
        (of.experts[arm], merged) for of in (headline, *of_metric) for arm, merged in of.merged.items()
    ]
    ends = _ends(compared, metric)
    names = RowNames.of(pairs, NARROW)
    few = len(pairs) <= FEW
    row = names.height(0.42 if few else max(0.2, 0.42 * FEW / len(pairs)))
    height = 0.25 + row * len(pairs)

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        where: Literal["marks", "right"] = "marks" if few else "right"
        _experts_and_merged(axes, pairs, metric, colour, list(pairs), written=where)
        axes.set_yticklabels([names.written[arm] for arm in pairs])
        _same_width(axes, ends, _span([ends]))

    over = headline.over or "merge methods"
    label = f"{in_words(metric)}, mean over tasks and {over}: " + "; ".join(
        f"{arm}: experts {experts.written(metric)}, merged {merged.written(metric)}"
        for arm, (experts, merged) in pairs.items()
    )
    title = f"{in_words(metric)}, mean over tasks"
    left = 0.25 + 1.05 * names.width
    return panels([title], draw, name, label, abreast=1, height=height, left=left, width=NARROW, below=0.3)


def task_figure(headline: Headline, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each task: the experts and the merged models of every arm, on axes of one width.

    Args:
        headline, colour, name: as in `headline_figure`.
    """
    metric = headline.metric
    known = {task: pairs for task, pairs in headline.by_task.items() if pairs}
    if not known:
        return ""
    extents = {task: _ends(pairs.values(), metric) for task, pairs in known.items()}
    span = _span(extents.values())
    arms = list(headline.experts)
    names = RowNames.of(arms, WIDTH)

    def draw(axes: Any, task: str, leftmost: bool) -> None:
        _experts_and_merged(axes, known[task], metric, colour, arms)
        axes.set_yticklabels([names.written[arm] for arm in arms] if leftmost else [])
        axes.set_xlabel(with_unit(metric))
        _same_width(axes, extents[task], span)

    label = f"{in_words(metric)} of experts and merged models, by task: " + "; ".join(
        f"{task}: "
        + ", ".join(f"{arm} {e.written(metric)} and {m.written(metric)}" for arm, (e, m) in pairs.items())
        for task, pairs in known.items()
    )
    height = 0.3 + names.height(0.26) * len(arms)
    return panels(list(known), draw, name, label, abreast=4, height=height, left=0.3 + names.width)


def _experts_and_merged(
    axes: Any,
    pairs: Mapping[str, tuple[Estimate, Estimate]],
    metric: Metric,
    colour: Mapping[str, str],
    arms: list[str],
    written: Literal["marks", "right"] | None = None,
) -> None:
    """Draw a row for each arm: a bar at its experts, its mark at its merged models, a line between.

    Numbers are written at both, or those of the merged models at the right, where rows are low.
    """
    for i, arm in enumerate(arms):
        if arm not in pairs:
            continue
        experts, merged = (metric.scale * estimate.mean for estimate in pairs[arm])
        mark = mark_of(colour[arm])
        axes.plot([experts, merged], [i, i], color=NAMED["rule"], linewidth=1.2, zorder=1)
        ends = pairs[arm][1].possible_ends(metric)
        if ends is not None:
            axes.plot([metric.scale * end for end in ends], [i, i], color=mark["color"], linewidth=2.4)
        axes.plot([experts, experts], [i - 0.2, i + 0.2], color=NAMED["ink"], linewidth=1.6)
        axes.plot([merged], [i], **mark | {"markersize": 7, "markeredgewidth": 1.6})
        if written == "right":
            text = as_number(merged, metric.digits)
            axes.annotate(
                text, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontweight="bold",
                annotation_clip=False,
            )  # fmt: skip
        if written == "marks":
            for value, place, weight in ((experts, (0, -10), "normal"), (merged, (0, 7), "bold")):
                text = as_number(value, metric.digits)
                axes.annotate(
                    text, (value, i), xytext=place, textcoords="offset points", ha="center",
                    va="top" if place[1] < 0 else "bottom", fontweight=weight,
                )  # fmt: skip
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_yticks(range(len(arms)))


def _ends(pairs: Iterable[tuple[Estimate, Estimate]], metric: Metric) -> tuple[float, float]:
    """Return the lowest and the highest value that is drawn, as they are printed."""
    values = [
        value
        for experts, merged in pairs
        for value in (experts.mean, merged.mean, *(merged.possible_ends(metric) or ()))
    ]
    return metric.scale * min(values), metric.scale * max(values)


def _span(extents: Iterable[tuple[float, float]]) -> float:
    """Return the width of every axis: the same in all panels, never so narrow that noise looks like a gap."""
    extents = list(extents)
    largest = max(abs(end) for ends in extents for end in ends)
    return max(SMALLEST_SPAN * largest, 1.2 * max(high - low for low, high in extents)) or 1.0


def _same_width(axes: Any, ends: tuple[float, float], span: float) -> None:
    centre = fmean(ends)
    axes.set_xlim(centre - span / 2, centre + span / 2)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x")


def score_figure(summary: Summary, size: str, metric: Metric, colour: Mapping[str, str], name: str) -> str:
    """Return panels for experts and each merge method: a row per arm, a dot per seed, a bar at the mean.

    Args:
        summary: the experiment.
        size: the train size.
        metric: of the tasks that the means are over.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figure, so that they are its own on the page.
    """
    rows = summary.of_size(size)
    scores = {row.arm: row.by_metric[metric] for row in rows}
    shown = {"experts": {arm: of_arm.experts.mean for arm, of_arm in scores.items()}}
    for method in summary.methods:
        merged = {arm: s.merges[method].shared.mean for arm, s in scores.items() if method in s.merges}
        shown[summary.title(method)] = merged
    known = {title: {a: v for a, v in of.items() if v is not None} for title, of in shown.items()}
    known = {title: of_arms for title, of_arms in known.items() if of_arms}
    extents = {title: _extent(of_arms, metric) for title, of_arms in known.items()}
    if not extents:
        return ""
    span = _span(extents.values())
    names = RowNames.of(scores, WIDTH)

    def draw(axes: Any, title: str, leftmost: bool) -> None:
        for i, row in enumerate(rows):
            if row.arm in known[title]:
                values, shade = known[title][row.arm], NAMED[shade_of(colour[row.arm])]
                dots = [metric.scale * value for value in values.by_seed.values()]
                axes.plot(dots, [i] * len(dots), linestyle="", **mark_of(colour[row.arm]))
                axes.plot([metric.scale * values.mean] * 2, [i - 0.32, i + 0.32], color=shade, linewidth=2)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), names.written.values() if leftmost else [""] * len(rows))
        axes.set_xlabel(with_unit(metric))
        _same_width(axes, extents[title], span)

    label = f"{size}: {in_words(metric)} of experts and merged models, by arm, a dot per seed"
    height = 0.3 + names.height(0.24) * len(rows)
    return panels(list(known), draw, name, label, abreast=5, height=height, left=0.3 + names.width)


def _extent(values: Mapping[str, OverSeeds], metric: Metric) -> tuple[float, float]:
    """Return the lowest and the highest value, as they are printed."""
    printed = [metric.scale * value for of_arm in values.values() for value in of_arm.by_seed.values()]
    return min(printed), max(printed)


def curve_figure(summary: Summary, size: str, metric: Metric, colour: Mapping[str, str], name: str) -> str:
    """Return a panel for each merge method: validation score by coefficient, rings where it was chosen.

    Args:
        summary, size, metric, colour, name: as in `score_figure`.
    """
    curves: dict[str, dict[str, Curve]] = {summary.title(method): {} for method in summary.methods}
    chosen: dict[str, dict[str, list[float]]] = {title: {} for title in curves}
    for row in summary.of_size(size):
        for method, merge in row.by_metric[metric].merges.items():
            title = summary.title(method)
            curves[title][row.arm] = merge.curve
            chosen[title][row.arm] = sorted(set(merge.shared_coefficients.values()) & set(merge.curve))
    return curves_figure(
        curves,
        {row.arm: colour[row.arm] for row in summary.of_size(size)},
        name,
        f"{size}: validation {in_words(metric)} over the scaling coefficient, by merge method and arm",
        along="scaling coefficient",
        up=f"validation {with_unit(metric)}",
        scale=metric.scale,
        rings=chosen,
    )
