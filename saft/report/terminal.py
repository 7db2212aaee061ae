"""The results as rich tables for the terminal: 80 columns are enough, plain text when it is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saft.report.statistic import Statistic, interval, signed
from saft.report.summary import ArmSummary, ProtocolSummary, Summary, summarize
from saft.report.verdict import Comparison

__all__ = ["table"]

METHODS_ABREAST = 4  # what fits beside arm, experts and mean in 80 columns


def table(results: Mapping[str, Any]) -> RenderableType:
    """Return what `saft run` prints at its end.

    For each regime: merged accuracy with one shared coefficient (absolute, and normalized below it), then
    with one coefficient per task, then interference and the differences between arms; at last the verdict.

    Args:
        results: the parsed `results.json`.
    """
    summary = summarize(results)
    parts: list[RenderableType] = []
    for regime in summary.regimes:
        rows = summary.of_regime(regime)
        if not rows:
            continue
        examples = results["protocol"]["regimes"][regime].get("train_examples")
        size = f"{examples} training examples a task" if examples else "all training examples"
        parts.append(Text(f"{regime}: {size}, {summary.split} accuracy in percent", style="bold"))
        parts.extend(
            _accuracies(summary, rows, "One shared coefficient", lambda row, m: row.merges[m].shared)
        )
        parts.extend(
            _accuracies(summary, rows, "One coefficient per task", lambda row, m: row.merges[m].per_task)
        )
        parts.append(_interference(rows))
        compared = [comparison for comparison in summary.comparisons if comparison.regime == regime]
        if compared:
            parts.append(_differences(compared))
    if summary.base:
        mean = sum(summary.base.values()) / len(summary.base)
        parts.append(Text(f"The pretrained model alone: {100 * mean:.1f}"))
    parts.append(Text(_legend(summary), style="dim"))
    for sentence in summary.missing:
        parts.append(Text(f"Not complete: {sentence}", style="yellow"))
    for regime, findings in summary.verdict.items():
        heading = Text(f"\nVerdict, {regime}", style="bold")
        parts.append(
            heading.append(" (merged accuracy, shared coefficient, mean over methods)", style="not bold")
        )
        for finding in findings:
            parts.append(Padding(Text(finding.conclusion), (0, 0, 0, 2)))
            parts.extend(Padding(Text(figure), (0, 0, 0, 4)) for figure in finding.figures)
    return Group(*parts)


def _accuracies(
    summary: Summary,
    rows: list[ArmSummary],
    title: str,
    protocol: Callable[[ArmSummary, str], ProtocolSummary],
) -> list[Table]:
    tables = []
    for start in range(0, len(summary.methods), METHODS_ABREAST) or [0]:
        methods = summary.methods[start : start + METHODS_ABREAST]
        found = _table(title if start == 0 else "")
        for heading in ("arm", "experts", *(method.replace("_", " ") for method in methods)):
            found.add_column(heading, justify="left" if heading == "arm" else "right")
        best = {
            m: max((protocol(r, m).absolute.mean for r in rows if m in r.merges), default=0) for m in methods
        }
        for row in rows:
            cells = [Text(row.experts.percent())]
            for method in methods:
                if method not in row.merges:
                    cells.append(Text("–"))
                    continue
                figures = protocol(row, method)
                style = "bold" if figures.absolute.mean == best[method] and len(rows) > 1 else ""
                cell = Text(figures.absolute.percent(), style=style)
                if figures.normalized is not None:
                    cell.append(f"\n({100 * figures.normalized.mean:.1f})", style="not bold dim")
                cells.append(cell)
            found.add_row(Text(row.arm), *cells)
        tables.append(found)
    return tables


def _interference(rows: list[ArmSummary]) -> Table:
    found = _table("Interference (mean over tasks, pairs and seeds)")
    found.add_column("arm")
    for heading in ("norm", "cosine", "sign conflict %", "after trimming %", "sharpness"):
        found.add_column(heading, justify="right")
    for row in rows:
        found.add_row(
            Text(row.arm),
            _mean(row.norm, ".3g"),
            _mean(row.cosine, ".3f"),
            _mean(row.sign_conflict.get("rate"), ".1f", 100),
            _mean(row.sign_conflict.get("trimmed_rate"), ".1f", 100),
            _mean(row.sharpness, ".3g"),
        )
    return found


def _differences(comparisons: list[Comparison]) -> Table:
    found = _table("Merged accuracy, mean over methods: differences in points, paired by seed")
    for heading in ("arm", "against"):
        found.add_column(heading)
    for heading in ("merged", "95 % interval", "experts", "outcome"):
        found.add_column(heading, justify="right")
    for comparison in comparisons:
        found.add_row(
            Text(comparison.arm),
            Text(comparison.baseline),
            signed(comparison.difference.mean) + _spread(comparison.difference),
            interval(comparison.difference.interval),
            signed(comparison.experts.mean),
            comparison.outcome,
        )
    return found


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}" if title else None,
        title_justify="left",
        title_style="italic",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        padding=(0, 1),
    )


def _mean(statistic: Statistic | None, spec: str, scale: float = 1) -> str:
    return "–" if statistic is None else f"{scale * statistic.mean:{spec}}"


def _spread(statistic: Statistic) -> str:
    return "" if statistic.deviation is None else f" ± {100 * statistic.deviation:.1f}"


def _legend(summary: Summary) -> str:
    spread = "Mean ± standard deviation over the seeds" if len(summary.seeds) > 1 else "One seed: no spread"
    return (
        f"{spread}; in parentheses: normalized, the merged model's accuracy over the expert's. "
        "Coefficients were chosen on validation data. Norm and cosine are of task vectors; sign conflict is "
        "the share of the weights moved by two tasks or more where they disagree in sign, also after each "
        "task vector was trimmed to its largest entries; sharpness is the worst-case increase of the "
        "expert's loss."
    )
