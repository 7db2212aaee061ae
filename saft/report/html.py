"""The results as one self-contained HTML page: no script, nothing fetched, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from saft.report.arm_summary import ArmSummary
from saft.report.expected import expected_figures
from saft.report.measured import heading, with_spread
from saft.report.over_seeds import OverSeeds
from saft.report.results import Results
from saft.report.summary import Summary, summarize
from saft.report.verdict import differences_of, in_words, interval, points
from saft.tasks.metric import Metric

__all__ = ["page"]


def page(results: Results) -> str:
    """Return the report as HTML: protocol, verdict, tables, curves, measures.

    The same results give the same text: it holds no date, no path and no random identifier.
    """
    from jinja2 import Environment, StrictUndefined

    from saft.report.figures import colours

    summary = summarize(results)
    colour = colours(results.arms)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        score=_score,
        percent=lambda values: "–" if values is None else values.written(100, 1),
        measured=with_spread,
        heading=heading,
        points=points,
        interval=interval,
        differences_of=differences_of,
        in_words=in_words,
        words=lambda name: str(name).replace("_", " "),
        known=lambda value: "–" if value is None else value,
        coefficients=_coefficients,
        steps=_steps,
        seconds=lambda values: "–" if values is None else values.written(1, 1 if values.mean < 100 else 0),
    )
    template = environment.from_string(files("saft.report").joinpath("template.html").read_text("utf-8"))
    return (
        template.render(
            results=results,
            protocol=results.protocol,
            summary=summary,
            expected=expected_figures(results),
            colour=colour,
            figures=_figures(summary, colour),
            config=json.dumps(results.config, indent=2, ensure_ascii=False),
            shown=_shown(results, summary),
            largest=_largest(results, summary),
        )
        + "\n"
    )


def _figures(summary: Summary, colour: Mapping[str, str]) -> dict[tuple[str, Metric], dict[str, Any]]:
    """Return the SVG elements: (train size, metric) -> "scores" and "curves"."""
    from markupsafe import Markup

    from saft.report.figures import curve_figure, score_figure

    figures = {}
    for i, size in enumerate(summary.train_sizes):
        for j, metric in enumerate(summary.metrics):
            if summary.of_size(size):
                of = (summary, size, metric, colour)
                curves = curve_figure(*of, f"curves{i}-{j}") if summary.methods else ""
                figures[size, metric] = {
                    "scores": Markup(score_figure(*of, f"scores{i}-{j}")),
                    "curves": Markup(curves),
                }
    return figures


def _score(values: OverSeeds | float | None, metric: Metric) -> str:
    """Return a raw value as its metric prints it, with its spread; a dash where there is none."""
    if values is None:
        return "–"
    return (
        values.written(metric.scale, metric.digits)
        if isinstance(values, OverSeeds)
        else metric.format(values)
    )


def _coefficients(by_seed: Mapping[int, float]) -> str:
    """Return the coefficient, or one per seed where they differ."""
    values = [f"{value:g}" for value in by_seed.values()]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _steps(row: ArmSummary) -> str:
    """Return the steps that were taken: one number, or the range over tasks and seeds."""
    taken = sorted({steps for of_task in row.steps.values() for steps in of_task})
    return str(taken[0]) if len(taken) == 1 else f"{taken[0]} to {taken[-1]}"


def _shown(results: Results, summary: Summary) -> dict[str, list[str]]:
    """Return "set", "task", "pair" -> quantities of this sort that an arm has; "all" -> those with a mean."""
    rows = summary.rows.values()
    shown: dict[str, list[str]] = {"all": [], "set": [], "task": [], "pair": []}
    for name, quantity in results.quantities.items():
        of_rows = [row.measured[name] for row in rows]
        if any(of_row.mean is not None for of_row in of_rows):
            shown["all"].append(name)
        if any(of_row.mean is not None or of_row.tasks or of_row.pairs for of_row in of_rows):
            shown[quantity.per].append(name)
    return shown


def _largest(results: Results, summary: Summary) -> dict[tuple[str, str], float]:
    """Return (train size, quantity) -> its largest magnitude of two tasks, the full colour of its maps."""
    largest = {}
    for size in summary.train_sizes:
        for name, quantity in results.quantities.items():
            if quantity.per == "pair":
                maps = [row.measured[name].pairs for row in summary.of_size(size)]
                pairs = (abs(v) for of in maps for s, row in of.items() for t, v in row.items() if s != t)
                largest[size, name] = max(pairs, default=0.0) or 1.0
    return largest
