"""The figures of a report as CSV, a number a cell, raw and in full: what others compute with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence

from saft.report.arm_summary import ArmSummary, ScoreSummary
from saft.report.expected import ExpectedFigure, expected_figures
from saft.report.held_out import HeldOutScores
from saft.report.over_seeds import OverSeeds
from saft.report.results import Results
from saft.report.searched import searches
from saft.report.summary import Summary

__all__ = ["csv_tables"]

OVER_SEEDS = ("mean", "deviation", "low", "high", "seeds")


def csv_tables(results: Results, summary: Summary) -> dict[str, str]:
    """Return name of a file -> its text. The same results give the same text.

    `scores.csv`: experts, merged models and the pretrained one, by task and over tasks; `gains.csv`: arm
    against arm; `costs.csv`: passes, seconds and bytes; `searches.csv`: what was tried and chosen;
    `measured.csv`: each measured number; `trials.csv`, where arms have `choices`: what was tried of them;
    `held_out.csv`, where tasks are held out: the scores on them, and the trade-off over the coefficient;
    `expected.csv`, where figures were published: those and ours, in the unit that it says.
    The coefficient of a merge with a weight for each task, where these were searched, is "weights".
    Values are raw (an accuracy is a share), with the deviation over seeds and the ends of the 95 % interval.
    Scores of a merge that keeps a part per task say the bytes of a part, and each is of the task's own model.

    Args:
        results: the experiment.
        summary: of it.
    """
    tables = {
        "scores.csv": _text(
            ("train_size", "arm", "model", "coefficient", "task", "metric", *OVER_SEEDS, "part_bytes"),
            _scores(summary),
        ),
        "gains.csv": _text(
            ("train_size", "arm", "against", "of", "metric", *OVER_SEEDS, "standard_error", "outcome"),
            _gains(summary),
        ),
        "costs.csv": _text(
            ("train_size", "arm", "passes", "steps", "seconds", "seconds_deviation", "memory_bytes"),
            _costs(results, summary),
        ),
        "searches.csv": _text(
            ("train_size", "arm", "method", "evaluations", "tried", "chosen", "validation_of_experts"),
            _searches(results, summary),
        ),
        "measured.csv": _text(
            ("train_size", "arm", "quantity", "unit", "scale", "of", *OVER_SEEDS), _measured(results, summary)
        ),
    }
    if summary.held_out_of:
        tables["held_out.csv"] = _text(
            ("train_size", "arm", "model", "coefficient", "split", "task", "metric", *OVER_SEEDS),
            _held_out(summary),
        )
    if results.arm_searches:
        options = dict.fromkeys(o for s in results.arm_searches for t in s.trials.values() for o in t.values)
        heading = "train_size", "arm", *options, "passes", "seed", "merged_validation", "chosen"
        tables["trials.csv"] = _text(heading, _trials(results, list(options)))
    if figures := expected_figures(results):
        heading = "figure", "of", "unit", "expected", "tolerance", *OVER_SEEDS, "outcome", "source"
        tables["expected.csv"] = _text(heading, map(_expected, figures))
    return tables


def _text(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(["" if _is_missing(cell) else cell for cell in row] for row in rows)
    return text.getvalue()


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _values(values: OverSeeds) -> tuple[object, ...]:
    low, high = values.interval or (None, None)
    return values.mean, values.deviation, low, high, values.n


def _expected(figure: ExpectedFigure) -> tuple[object, ...]:
    ours = (None,) * len(OVER_SEEDS) if figure.ours is None else _values(figure.ours)
    published = figure.value, figure.tolerance
    return figure.name, figure.of, figure.unit, *published, *ours, figure.outcome, figure.source


def _scores(summary: Summary) -> Iterator[tuple[object, ...]]:
    for metric, tasks in summary.tasks_of.items():
        for task in tasks:
            if task in summary.base:
                only = summary.base[task], None, None, None, None
                yield None, None, "pretrained", None, task, metric.name, *only, None
    for row in summary.rows.values():
        for metric, of_metric in row.by_metric.items():
            models: list[tuple[str, str, ScoreSummary]] = [("experts", "", of_metric.experts)]
            for method, merge in of_metric.merges.items():
                models += [(method, "shared", merge.shared), (method, "per_task", merge.per_task)]
                models += [(method, "weights", merge.weighted)] if merge.weighted is not None else []
            for model, coefficient, scores in models:
                means = {"mean over tasks": scores.mean} if scores.mean is not None else {}
                for task, values in (scores.tasks | means).items():
                    yield (
                        row.train_size, row.arm, model, coefficient, task, metric.name, *_values(values),
                        summary.parts[model].each if model in summary.parts else None,
                    )  # fmt: skip


def _held_out(summary: Summary) -> Iterator[tuple[object, ...]]:
    """Yield the scores on tasks held out, and at each coefficient those of the trained tasks beside them."""
    splits = {"validation": summary.base_validation, summary.split: summary.base}
    for metric, tasks in summary.held_out_of.items():
        for split, scores in splits.items():
            for task in tasks:
                if task in scores:
                    only = scores[task], None, None, None, None
                    yield None, None, "pretrained", None, split, task, metric.name, *only
    for row in summary.rows.values():
        for metric, kept in row.held_out.items():
            models: list[tuple[str, str | None, HeldOutScores]] = [("experts", None, kept.experts)]
            for method, merged in kept.merges.items():
                models.append((method, "shared", merged))
                models += [(method, "weights", kept.weighted[method])] if method in kept.weighted else []
            for model, coefficient, of in models:
                means = {} if of.mean is None else {"mean over tasks held out": of.mean}
                for task, values in (of.tasks | means).items():
                    names = row.train_size, row.arm, model, coefficient, summary.split, task, metric.name
                    yield *names, *_values(values)
        curves = [
            *(("mean over tasks held out", m, kept.curves) for m, kept in row.held_out.items()),
            *(
                ("mean over tasks", m, {method: merge.curve for method, merge in of_metric.merges.items()})
                for m, of_metric in row.by_metric.items()
            ),
        ]
        for task, metric, of_methods in curves:
            for method, curve in of_methods.items():
                for at, values in curve.items():
                    point = row.train_size, row.arm, method, at, "validation", task, metric.name
                    yield *point, *_values(values)


def _gains(summary: Summary) -> Iterator[tuple[object, ...]]:
    for compared in summary.comparisons:
        names = compared.train_size, compared.arm, compared.baseline
        for of, gain in (("merged", compared.merged), ("experts", compared.experts)):
            yield (
                *names, of, compared.metric.name, *_values(gain.values), gain.standard_error, gain.outcome
            )  # fmt: skip
        for method, values in compared.by_method.items():
            yield *names, method, compared.metric.name, *_values(values), compared.errors.get(method), None


def _costs(results: Results, summary: Summary) -> Iterator[tuple[object, ...]]:
    for row in summary.rows.values():
        facts = results.facts(row.train_size, row.arm)
        seconds = (None, None) if row.seconds is None else (row.seconds.mean, row.seconds.deviation)
        memory = None if row.memory is None else row.memory.mean
        yield row.train_size, row.arm, facts.passes, facts.steps, *seconds, memory


def _searches(results: Results, summary: Summary) -> Iterator[tuple[object, ...]]:
    for size in summary.train_sizes:
        for search in searches(results, size):
            tried = search.arm, search.method, search.evaluations, search.tried
            yield size, *tried, search.chosen, search.worth


def _trials(results: Results, options: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for search in results.arm_searches:
        for name, trial in search.trials.items():
            values = [trial.values.get(option) for option in options]
            for seed, worth in trial.worth.items():
                of_trial = search.train_size, search.arm, *values, trial.facts.passes
                yield *of_trial, seed, worth, name == search.chosen


def _measured(results: Results, summary: Summary) -> Iterator[tuple[object, ...]]:
    for row in summary.rows.values():
        for name, quantity in results.quantities.items():
            yield from (
                (row.train_size, row.arm, name, quantity.unit, quantity.scale, of, *_values(values))
                for of, values in _numbers(row, name)
            )


def _numbers(row: ArmSummary, name: str) -> Iterator[tuple[str, OverSeeds]]:
    measured = row.measured[name]
    for key, values in measured.numbers.items():
        yield " | ".join(key), values
    if measured.mean is not None and () not in measured.numbers:
        yield "mean", measured.mean
