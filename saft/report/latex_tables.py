"""The tables of a report in LaTeX, as papers print them: booktabs, a plain file each, to be `\\input`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from saft.report.arm_summary import MetricSummary
from saft.report.over_seeds import OverSeeds
from saft.report.results import Results
from saft.report.summary import Summary
from saft.report.verdict import differences_of, in_words, interval, points
from saft.tasks.metric import Metric
from saft.written import as_count

__all__ = ["escaped", "latex_tables"]

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi",
    "ρ": "rho", "ς": "varsigma", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
MATHEMATICS = {
    "−": "-", "±": r"\pm", "→": r"\to", "←": r"\leftarrow", "×": r"\times", "·": r"\cdot", "≤": r"\le",
    "≥": r"\ge", "≈": r"\approx", "≠": r"\ne", "∞": r"\infty", "‖": r"\Vert", "<": "<", ">": ">", "|": "|",
} | {letter: f"\\{name}" for letter, name in GREEK.items()}  # fmt: skip
SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''", "–": "--",
    "`": "{`}", "[": "{[}", "*": "{*}",  # a row may begin with these, behind the end of the one before
}  # fmt: skip
JOINED = re.compile(r"""(?<=[-–])(?=[-–])|(?<=["',])(?=["',])""")  # where TeX would make one sign of two
SPECIAL |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    sign: f"${word}$" for sign, word in MATHEMATICS.items()
}
MISSING = "–"
WEIGHTED = ", searched weights"

S = TypeVar("S")  # scores of a model


def latex_tables(results: Results, summary: Summary) -> dict[str, str]:
    """Return name of a file -> its text, a table for each train size and metric. It needs `booktabs` only.

    `scores.tex`: experts and merges with the shared coefficient, mean over tasks; `tasks.tex`: the same, task
    by task; `gains.tex`: arm against arm; `costs.tex`: passes, seconds and memory; `held_out.tex`, where
    tasks are held out: experts and merges on each of them, and their mean against the pretrained model's.
    A merge with a weight for each task, where these were searched, stands behind that with one coefficient.

    Args:
        results: the experiment.
        summary: of it.
    """
    each = [(size, metric) for size in summary.train_sizes for metric in summary.metrics]
    makers: dict[str, Callable[[Summary, str, Metric], str]] = {
        "scores.tex": _scores,
        "tasks.tex": _tasks,
        "gains.tex": _gains,
    }
    tables = {name: "\n".join(make(summary, *of) for of in each) for name, make in makers.items()}
    if summary.held_out_of:
        kept = [
            _held_out(summary, size, held) for size in summary.train_sizes for held in summary.held_out_of
        ]
        tables["held_out.tex"] = "\n".join(kept)
    return tables | {"costs.tex": "\n".join(_costs(results, summary, size) for size in summary.train_sizes)}


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it.

    Args:
        text: of Latin and Greek letters and usual signs; others are left, for XeLaTeX or LuaLaTeX.

    Example:
        >>> print(escaped("adamw_2x: 5 % ± 1"))
        adamw\_2x: 5 \% $\pm$ 1
    """
    parts = (
        re.sub("|".join(map(re.escape, SPECIAL)), lambda at: SPECIAL[at[0]], p) for p in JOINED.split(text)
    )
    return "{}".join(parts)


def _table(about: str, heading: Sequence[str], names: int, rows: Sequence[Sequence[str]]) -> str:
    """Return a tabular; its first columns are names, and a comment above says what it is."""
    lines = [
        f"% {' '.join(about.split())}",
        rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(heading) - names)}}}",
        r"\toprule",
        " & ".join(map(escaped, heading)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _written(values: OverSeeds | None, metric: Metric, best: float | None = None) -> str:
    if values is None:
        return escaped(MISSING)
    text = escaped(values.written(metric.scale, metric.digits))
    return rf"\textbf{{{text}}}" if values.mean == best else text


def _scores(summary: Summary, size: str, metric: Metric) -> str:
    rows = summary.of_size(size)
    best = {method: summary.best(size, metric, method, "shared") for method in summary.methods}
    if len(rows) < 2:
        best = dict.fromkeys(best)
    weighted = {m for row in rows for m, of in row.by_metric[metric].merges.items() if of.weighted}
    heading, columns = ["arm", "experts"], []
    for method in best:
        heading.append(summary.title(method))
        columns.append(
            [_written(_shared(row.by_metric[metric], method), metric, best[method]) for row in rows]
        )
        if method in weighted:
            heading.append(summary.title(method) + WEIGHTED)
            columns.append([_written(_weighted(row.by_metric[metric], method), metric) for row in rows])
    cells = [
        [escaped(row.arm), _written(row.by_metric[metric].experts.mean, metric), *(of[i] for of in columns)]
        for i, row in enumerate(rows)
    ]
    about = f"{size}: {summary.split} {in_words(metric)}, mean over tasks, one shared coefficient"
    return _table(about, heading, 1, cells)


def _shared(scores: MetricSummary, method: str) -> OverSeeds | None:
    return scores.merges[method].shared.mean if method in scores.merges else None


def _weighted(scores: MetricSummary, method: str) -> OverSeeds | None:
    merge = scores.merges.get(method)
    return merge.weighted.mean if merge is not None and merge.weighted is not None else None


def _models(summary: Summary, experts: S, shared: Mapping[str, S], weighted: Mapping[str, S]) -> dict[str, S]:
    """Return title -> scores: experts, then of each method with one coefficient, and with weights."""
    models = {"experts": experts}
    for method, scores in shared.items():
        models[summary.title(method)] = scores
        if method in weighted:
            models[summary.title(method) + WEIGHTED] = weighted[method]
    return models


def _tasks(summary: Summary, size: str, metric: Metric) -> str:
    tasks = summary.tasks_of[metric]
    cells = []
    for row in summary.of_size(size):
        of = row.by_metric[metric]
        shared = {method: merge.shared for method, merge in of.merges.items()}
        weighted = {
            method: merge.weighted for method, merge in of.merges.items() if merge.weighted is not None
        }
        models = _models(summary, of.experts, shared, weighted)
        for model, scores in models.items():
            values = [*(scores.tasks.get(task) for task in tasks), scores.mean]
            cells.append([escaped(row.arm), escaped(model), *(_written(value, metric) for value in values)])
    about = f"{size}: {summary.split} {in_words(metric)}, task by task, one shared coefficient"
    return _table(about, ["arm", "model", *tasks, "mean"], 2, cells)


def _held_out(summary: Summary, size: str, metric: Metric) -> str:
    tasks = summary.held_out_of[metric]
    base, mean = [summary.base.get(task) for task in tasks], summary.base_over(tasks)
    start = (escaped(MISSING if value is None else metric.format(value)) for value in (*base, mean))
    cells = [[escaped(MISSING), "pretrained", *start, escaped(MISSING)]]
    for row in summary.of_size(size):
        kept = row.held_out[metric]
        models = _models(summary, kept.experts, kept.merges, kept.weighted)
        for model, scores in models.items():
            values = [*(scores.tasks.get(task) for task in tasks), scores.mean]
            change = MISSING if scores.change is None else points(scores.change.mean, metric)
            names = escaped(row.arm), escaped(model)
            cells.append([*names, *(_written(value, metric) for value in values), escaped(change)])
    about = f"{size}: {summary.split} {in_words(metric)} on tasks held out, one shared coefficient"
    return _table(about, ["arm", "model", *tasks, "mean", "against pretrained"], 2, cells)


def _gains(summary: Summary, size: str, metric: Metric) -> str:
    cells = [
        [
            escaped(c.arm),
            escaped(c.baseline),
            escaped(points(c.merged.values.mean, metric)),
            escaped(interval(c.merged.ends, metric)),
            escaped(points(c.experts.values.mean, metric)),
            escaped(c.merged.outcome),
        ]
        for c in summary.comparisons
        if (c.train_size, c.metric) == (size, metric)
    ]
    about = f"{size}: {differences_of(metric)} of merged {metric.name}, mean over tasks and merge methods"
    about += "; intervals over the seeds, of one seed over the examples"
    heading = ["arm", "against", "merged", "95 % interval", "experts", "outcome"]
    return _table(about, heading, 2, cells)


def _costs(results: Results, summary: Summary, size: str) -> str:
    cells = [
        [
            escaped(row.arm),
            escaped(MISSING if (made := results.facts(size, row.arm).passes) is None else as_count(made)),
            escaped(MISSING if row.seconds is None else row.seconds.written(1, 1)),
            escaped(MISSING if row.memory is None else row.memory.written(1e-9, 2)),
        ]
        for row in summary.of_size(size)
    ]
    heading = ["arm", "passes", "seconds", "memory, GB"]
    return _table(f"{size}: cost of one expert on {results.device}", heading, 1, cells)
