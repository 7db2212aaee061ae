"""The results as rich tables for the terminal: 60 columns are enough, plain text where it is not one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saft.interference.culprit import HOW_RIGHT
from saft.report.arm_summary import ArmSummary
from saft.report.chosen_arms import chosen_arms
from saft.report.columns import Column, Stacked, plain_table, stacked
from saft.report.comparison import Comparison
from saft.report.expected import ExpectedFigure, expected_figures
from saft.report.grid_ends import ADD_A_GRID, grid_ends
from saft.report.measured import heading, legend, with_spread, without_errors
from saft.report.merge_verdict import merge_verdict
from saft.report.over_seeds import OverSeeds
from saft.report.results import Results
from saft.report.summary import Summary, summarize
from saft.report.verdict import differences_of, in_words, interval, points
from saft.report.weighted import weighted_sentences
from saft.tasks.metric import Metric
from saft.written import as_count, as_number

__all__ = ["table"]

TITLES: dict[Literal["shared", "per_task"], str] = {
    "shared": "One shared coefficient",
    "per_task": "One coefficient per task",
}


def table(results: Results) -> RenderableType:
    """Return what `saft run` prints at its end.

    For each train size: merged scores with one shared coefficient (absolute, and normalized below it), then
    with one coefficient per task, then what the arms cost, what was measured, and the differences between
    arms; at last the verdict. Tasks of different metrics have tables of their own.
    """
    summary = summarize(results)
    parts: list[RenderableType] = []
    for size in summary.train_sizes:
        if summary.of_size(size):
            parts.extend(_of_size(results, summary, size))
    parts.extend(_base(summary))
    parts.extend(Text(sentence) for sentence in summary.of_methods)
    parts.append(Text(_legend(results, summary), style="dim"))
    if figures := expected_figures(results):
        parts.append(_expected(figures))
    parts.extend(Text(f"Not complete: {sentence}", style="yellow") for sentence in summary.missing)
    for size, findings in summary.verdict.items():
        heading = Text(f"\nVerdict, {size}", style="bold")
        parts.append(
            heading.append(" (merged scores, shared coefficient, mean over methods)", style="not bold")
        )
        for finding in findings:
            parts.append(Padding(Text(finding.conclusion), (0, 0, 0, 2)))
            parts.extend(Padding(Text(figure), (0, 0, 0, 4)) for figure in finding.figures)
    return Group(*parts)


def _expected(figures: Sequence[ExpectedFigure]) -> Table:
    rows = plain_table("Published figures, and ours on the test split")
    for name in ("figure", "of", "published", "ours", "outcome", "source"):
        rows.add_column(name, justify="right" if name in ("published", "ours") else "left", overflow="fold")
    for figure in figures:
        rows.add_row(Text(figure.name), Text(figure.of), *figure.written, figure.outcome, Text(figure.source))
    return rows


def _of_size(results: Results, summary: Summary, size: str) -> Iterator[RenderableType]:
    rows = summary.of_size(size)
    examples = results.protocol.train_sizes[size]
    count = f"{examples} training examples a task" if examples else "all training examples"
    for metric in summary.metrics:
        tasks = f" of {', '.join(summary.tasks_of[metric])}" if len(summary.metrics) > 1 else ""
        text = f"{size}: {count}, {summary.split} {in_words(metric)}{tasks}"
        yield Text(text, style="bold")
        for coefficient, title in TITLES.items():
            yield from _scores(summary, size, metric, title, coefficient)
    for metric, held in summary.held_out_of.items():
        yield from _held_out(summary, size, metric, held)
    for sentence in weighted_sentences(results, size):
        yield Text(f"A weight for each task: {sentence}")
    for sentence in chosen_arms(results, size):
        yield Text(f"Chosen: {sentence}")
    if ends := grid_ends(results, size):
        yield from (Text(f"At the end of the grid: {sentence}") for sentence in ends)
        yield Text(ADD_A_GRID, style="dim")
    yield from _cost(results, rows)
    arms, columns = [row.arm for row in rows], []
    for name, quantity in without_errors(results.quantities).items():
        means = {row.arm: mean for row in rows if (mean := row.measured[name].mean) is not None}
        if means:
            figures = {arm: Text(with_spread(mean, quantity)) for arm, mean in means.items()}
            columns.append(Column(heading(name, quantity), figures))
    yield from stacked("Measured (mean over tasks, pairs and seeds)", "arm", arms, columns)
    if sentences := merge_verdict(results, size):
        yield Text("\nWho hurts whom in the merges, by what was measured", style="bold")
        yield from (Padding(Text(sentence), (0, 0, 0, 2)) for sentence in [*sentences, HOW_RIGHT])
    for metric in summary.metrics:
        compared = [c for c in summary.comparisons if c.train_size == size and c.metric == metric]
        yield from _differences(compared, metric)


def _scores(
    summary: Summary, size: str, metric: Metric, title: str, coefficient: Literal["shared", "per_task"]
) -> list[Stacked]:
    rows = summary.of_size(size)
    columns = []
    for method in summary.methods:
        best = summary.best(size, metric, method, coefficient)
        figures = {}
        for row in rows:
            merge = row.by_metric[metric].merges.get(method)
            score = None if merge is None else getattr(merge, coefficient)
            if score is not None and score.mean is not None:
                style = "bold" if score.mean.mean == best and len(rows) > 1 else ""
                figures[row.arm] = Text(_written(score.mean, metric), style=style)
                if score.normalized is not None:
                    figures[row.arm].append(
                        f"\n({as_number(100 * score.normalized.mean, 1)})", style="not bold dim"
                    )
        columns.append(Column(summary.title(method), figures))
    experts = {row.arm: Text(_written(row.by_metric[metric].experts.mean, metric)) for row in rows}
    return stacked(title, "arm", [row.arm for row in rows], columns, [Column("experts", experts)])


def _held_out(summary: Summary, size: str, metric: Metric, tasks: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the scores on tasks that are held out, each against the pretrained model below it."""
    kept = {row.arm: row.held_out[metric] for row in summary.of_size(size)}
    models = {arm: {"experts": of.experts, **of.merges} for arm, of in kept.items()}
    columns = []
    for model in ["experts", *summary.one_model]:
        figures = {}
        for arm, of_arm in models.items():
            if model in of_arm and of_arm[model].mean is not None:
                figures[arm] = Text(_written(of_arm[model].mean, metric))
                if (change := of_arm[model].change) is not None:
                    figures[arm].append(f"\n({points(change.mean, metric)})", style="dim")
        columns.append(Column(model.replace("_", " "), figures))
    pretrained = summary.base_over(tasks)
    start = "" if pretrained is None else f"; the pretrained model: {metric.format(pretrained)}"
    yield Text(f"\nHeld out: {', '.join(tasks)}, {summary.split} {in_words(metric)}{start}")
    yield from stacked("One shared coefficient, held out", "arm", list(models), columns)


def _cost(results: Results, rows: Sequence[ArmSummary]) -> list[Stacked]:
    facts = {row.arm: results.facts(row.train_size, row.arm) for row in rows}
    columns = [
        Column(
            "steps",
            {
                arm: Text(", ".join(map(str, of.select_steps or [of.steps])))
                for arm, of in facts.items()
                if of.steps is not None
            },
        ),
        Column("passes", {a: Text(as_count(f.passes)) for a, f in facts.items() if f.passes is not None}),
        Column("seconds", {row.arm: Text(_seconds(row.seconds)) for row in rows}),
    ]
    if any(row.memory is not None for row in rows):
        columns.append(Column("memory, GB", {row.arm: Text(_gigabytes(row.memory)) for row in rows}))
    return stacked("Cost of one expert", "arm", list(facts), columns)


def _differences(comparisons: Sequence[Comparison], metric: Metric) -> list[Stacked]:
    of = {f"{c.arm} – {c.baseline}": c for c in comparisons}
    columns: dict[str, dict[str, str]] = {"merged": {}, "95 % interval": {}, "experts": {}, "outcome": {}}
    for pair, comparison in of.items():
        values = comparison.merged.values
        spread = "" if values.deviation is None else f" ± {metric.format(values.deviation)}"
        columns["merged"][pair] = points(values.mean, metric) + spread
        columns["95 % interval"][pair] = interval(comparison.merged.ends, metric)
        columns["experts"][pair] = points(comparison.experts.values.mean, metric)
        columns["outcome"][pair] = comparison.merged.outcome
    return stacked(
        f"Merged {metric.name}, mean over methods: {differences_of(metric)}, paired by seed",
        "arm – against",
        list(of),
        [Column(name, {pair: Text(text) for pair, text in texts.items()}) for name, texts in columns.items()],
    )


def _base(summary: Summary) -> Iterator[Text]:
    for metric in summary.metrics:
        mean = summary.base_mean(metric)
        if mean is not None:
            yield Text(f"The pretrained model: {in_words(metric)} {metric.format(mean)}")


def _written(values: OverSeeds | None, metric: Metric) -> str:
    return "–" if values is None else values.written(metric.scale, metric.digits)


def _seconds(values: OverSeeds | None) -> str:
    return "–" if values is None else values.written(1.0, 1 if values.mean < 100 else 0)


def _gigabytes(values: OverSeeds | None) -> str:
    return "–" if values is None else values.written(1e-9, 2)


def _legend(results: Results, summary: Summary) -> str:
    several = len(summary.seeds) > 1
    spread = "Mean ± standard deviation over the seeds" if several else "One seed: no spread"
    if any(c.merged.values.n == 1 for c in summary.comparisons):
        spread += f"; intervals{' of one common seed' if several else ''} are over the examples"
    metrics = (
        " The tasks have different metrics: each mean is over the tasks of one metric."
        if len(summary.metrics) > 1
        else ""
    )
    kept = (
        " Of tasks held out: experts, mean over all, and merges with the shared coefficient; in parentheses "
        "the difference to the pretrained model."
        if summary.held_out_of
        else ""
    )
    return (
        f"{spread}; in parentheses: normalized, the merged model's score over the expert's (the other way "
        f"round where lower is better), in percent. Coefficients were chosen on validation data."
        f"{metrics}{kept}\n"
        f"{legend({n: q for n, q in without_errors(results.quantities).items() if q.per != 'grid'})}"
    )
