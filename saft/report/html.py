"""The results as one self-contained HTML page: no script, nothing fetched, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from saft.report.statistic import Statistic, interval, signed
from saft.report.summary import ArmSummary, Summary, summarize

__all__ = ["page"]


def page(results: Mapping[str, Any]) -> str:
    """Return the report as HTML: protocol, verdict, tables, curves, interference.

    The same results give the same text: it holds no date, no path and no random identifier.

    Args:
        results: the parsed `results.json`.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from saft.report.figures import accuracy_figure, colours, curve_figure

    summary = summarize(results)
    colour = colours(results["arms"])
    figures = {}
    for i, regime in enumerate(summary.regimes):
        if summary.of_regime(regime):
            figures[regime] = {
                "accuracy": Markup(accuracy_figure(summary, regime, colour, f"accuracy{i}")),
                "curves": Markup(curve_figure(summary, regime, colour, f"curves{i}"))
                if summary.methods
                else "",
            }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=lambda statistic: "–" if statistic is None else statistic.percent(),
        significant=lambda statistic, digits=3: "–" if statistic is None else statistic.significant(digits),
        signed=signed,
        interval=interval,
        words=lambda name: str(name).replace("_", " "),
        known=lambda value: "–" if value is None else value,
        coefficients=_coefficients,
        steps=_steps,
    )
    template = environment.from_string(files("saft.report").joinpath("template.html").read_text("utf-8"))
    return (
        template.render(
            results=results,
            protocol=results["protocol"],
            summary=summary,
            colour=colour,
            figures=figures,
            config=json.dumps(results.get("config", {}), indent=2, ensure_ascii=False),
            best=_best,
            mean=_mean_of_base(summary),
            heat=_heat(summary),
        )
        + "\n"
    )


def _best(rows: list[ArmSummary], protocol: str, method: str) -> float:
    """Return the highest accuracy in a column."""
    found = [getattr(row.merges[method], protocol).absolute.mean for row in rows if method in row.merges]
    return max(found, default=0.0)


def _mean_of_base(summary: Summary) -> Statistic | None:
    if not summary.base:
        return None
    return Statistic({0: sum(summary.base.values()) / len(summary.base)})


def _coefficients(by_seed: Mapping[int, float]) -> str:
    """Return the coefficient, or one per seed where they differ."""
    values = [f"{value:g}" for value in by_seed.values()]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _steps(row: ArmSummary) -> str:
    """Return the steps that were taken: one number, or the range over tasks and seeds."""
    taken = sorted({steps for of_task in row.steps.values() for steps in of_task if steps is not None})
    if not taken:
        return "–"
    return str(taken[0]) if len(taken) == 1 else f"{taken[0]} to {taken[-1]}"


def _heat(summary: Summary) -> dict[str, float]:
    """Return regime -> the largest cosine of two tasks, which gets the full colour in all its heat maps."""
    n = len(summary.tasks)
    largest = {}
    for regime in summary.regimes:
        matrices = [row.cosine_matrix for row in summary.of_regime(regime) if row.cosine_matrix]
        pairs = (abs(matrix[s][t]) for matrix in matrices for s in range(n) for t in range(s))
        largest[regime] = max(pairs, default=0.0) or 1.0
    return largest
