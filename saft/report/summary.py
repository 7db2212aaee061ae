"""Parsed `results.json` -> what the report shows: every figure aggregated over seeds, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from saft.interference.accuracy import merged_accuracy
from saft.report.statistic import Statistic
from saft.report.verdict import Comparison, Finding, compare, in_words

__all__ = ["ArmSummary", "MergeSummary", "ProtocolSummary", "Summary", "summarize"]

Cell = Mapping[str, Any]
Figures = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class ProtocolSummary:
    """A merge method under one protocol: `coefficients` is seed -> lambda, or seed -> {task: lambda}."""

    absolute: Statistic
    normalized: Statistic | None
    tasks: dict[str, Statistic]
    coefficients: dict[int, Any]


@dataclass(frozen=True)
class MergeSummary:
    """A merge method in one arm; `curve` is coefficient -> validation accuracy, mean over tasks."""

    shared: ProtocolSummary
    per_task: ProtocolSummary
    curve: dict[float, Statistic]


@dataclass(frozen=True)
class ArmSummary:
    """One arm in one regime.

    Attributes:
        seeds: those that are there.
        steps: task -> optimizer steps, per seed.
        experts: accuracy of the single-task models, mean over tasks; `expert_tasks` for each.
        merged: accuracy with the shared coefficient, mean over tasks and merge methods (see the verdict).
        norm: L2 norm of the task vectors, mean over tasks.
        cosine: of pairs of task vectors, mean over pairs; `cosine_matrix` is the mean over seeds.
        sign_conflict: rate, by_chance, weighted, and the same three with `trimmed_` before them.
        sharpness: worst-case increase of the loss, mean over tasks, at radius `sharpness_rho`.
    """

    regime: str
    arm: str
    seeds: list[int]
    steps: dict[str, list[int | None]]
    experts: Statistic
    expert_tasks: dict[str, Statistic]
    merges: dict[str, MergeSummary]
    merged: Statistic | None
    norm: Statistic | None
    norm_tasks: dict[str, Statistic]
    cosine: Statistic | None
    cosine_matrix: list[list[float]] | None
    sign_conflict: dict[str, Statistic]
    sharpness: Statistic | None
    sharpness_tasks: dict[str, Statistic]
    sharpness_rho: float | None


@dataclass(frozen=True)
class Summary:
    """What the report shows.

    Attributes:
        split: "test", or "validation" when the run did not read the test split.
        base: task -> accuracy of the pretrained model.
        rows: (regime, arm) -> figures, in the order of the results; only what has at least one cell.
        missing: in words, the cells that the grid has and the results have not.
        comparisons: every sharpness-aware arm against every arm without ascent.
        verdict: regime -> findings, one for each sharpness-aware arm.
    """

    split: str
    tasks: list[str]
    methods: list[str]
    regimes: list[str]
    seeds: list[int]
    base: dict[str, float]
    rows: dict[tuple[str, str], ArmSummary]
    missing: list[str]
    comparisons: list[Comparison]
    verdict: dict[str, list[Finding]]

    def of_regime(self, regime: str) -> list[ArmSummary]:
        """Return the rows of one regime."""
        return [row for (name, _), row in self.rows.items() if name == regime]


def summarize(results: Mapping[str, Any]) -> Summary:
    """Aggregate the results of an experiment over its seeds and compare its arms.

    Args:
        results: the parsed `results.json`; an unfinished grid is summarized as far as it goes.

    Returns:
        Figures as fractions; means and standard deviations (n - 1) over the seeds that are there.
    """
    cells, protocol = results["cells"], results["protocol"]
    tasks, regimes, seeds = list(protocol["tasks"]), list(protocol["regimes"]), list(protocol["seeds"])
    read = [expert.get("test") for cell in cells for expert in cell["experts"].values()]
    split = "test" if read and None not in read else "validation"
    rows: dict[tuple[str, str], ArmSummary] = {}
    missing = []
    for regime in regimes:
        for arm in results["arms"]:
            found = {c["seed"]: c for c in cells if c["regime"] == regime and c["arm"] == arm}
            if found:
                rows[regime, arm] = _row(regime, arm, found, tasks, split)
            absent = [str(seed) for seed in seeds if seed not in found]
            if absent:
                missing.append(f"{regime}, {arm}: no result for seed {', '.join(absent)}")
    base = {task: scores.get(split) for task, scores in results.get("base", {}).items()}
    comparisons = compare(results, rows, split)
    return Summary(
        split=split,
        tasks=tasks,
        methods=list(dict.fromkeys(method for cell in cells for method in cell["merges"])),
        regimes=regimes,
        seeds=seeds,
        base={task: accuracy for task, accuracy in base.items() if accuracy is not None},
        rows=rows,
        missing=missing,
        comparisons=comparisons,
        verdict={regime: in_words(regime, results, rows, comparisons, split) for regime in regimes},
    )


def _row(regime: str, arm: str, cells: Mapping[int, Cell], tasks: list[str], split: str) -> ArmSummary:
    figures = {seed: _figures(cell, tasks, split) for seed, cell in cells.items()}

    def over_seeds(*key: str) -> Statistic | None:
        by_seed = {seed: of_seed[key] for seed, of_seed in figures.items() if key in of_seed}
        return Statistic(by_seed) if by_seed else None

    def for_each(names: list[str], *key: str) -> dict[str, Statistic]:
        found = {name: over_seeds(*key, name) for name in names}
        return {name: statistic for name, statistic in found.items() if statistic is not None}

    def protocol(method: str, name: str, coefficient: str) -> ProtocolSummary:
        absolute = over_seeds(name, method)
        assert absolute is not None  # `method` comes from the cells
        return ProtocolSummary(
            absolute=absolute,
            normalized=over_seeds(name, method, "normalized"),
            tasks=for_each(tasks, name, method, "task"),
            coefficients={
                seed: cell["merges"][method][name][coefficient]
                for seed, cell in cells.items()
                if method in cell["merges"]
            },
        )

    experts = over_seeds("experts")
    assert experts is not None  # a cell is written when its experts are evaluated
    methods = list(dict.fromkeys(method for cell in cells.values() for method in cell["merges"]))
    return ArmSummary(
        regime=regime,
        arm=arm,
        seeds=list(cells),
        steps={task: [cell["experts"][task].get("steps") for cell in cells.values()] for task in tasks},
        experts=experts,
        expert_tasks=for_each(tasks, "experts"),
        merges={
            method: MergeSummary(
                shared=protocol(method, "shared", "coefficient"),
                per_task=protocol(method, "per_task", "coefficients"),
                curve=_curve(method, cells),
            )
            for method in methods
        },
        merged=over_seeds("merged"),
        norm=over_seeds("norm"),
        norm_tasks=for_each(tasks, "norm"),
        cosine=over_seeds("cosine"),
        cosine_matrix=_cosine_matrix(figures, tasks),
        sign_conflict=for_each(
            [prefix + name for prefix in ("", "trimmed_") for name in CONFLICTS], "conflict"
        ),
        sharpness=over_seeds("sharpness"),
        sharpness_tasks=for_each(tasks, "sharpness"),
        sharpness_rho=next(iter(_rhos(cells)), None),
    )


CONFLICTS = ("rate", "by_chance", "weighted")


def _figures(cell: Cell, tasks: list[str], split: str) -> Figures:
    """Return every figure of one cell that is there and finite, under a name."""
    figures: Figures = {}
    experts = {task: cell["experts"][task][split] for task in tasks}
    figures.update({("experts", task): accuracy for task, accuracy in experts.items()})
    figures["experts",] = fmean(experts.values())

    for method, merge in cell["merges"].items():
        for protocol, accuracies in _merged(merge, tasks, split).items():
            summary = merged_accuracy(accuracies, experts)
            figures[protocol, method] = summary.absolute
            if summary.normalized is not None:
                figures[protocol, method, "normalized"] = summary.normalized
            figures.update({(protocol, method, "task", task): value for task, value in accuracies.items()})
    if cell["merges"]:
        figures["merged",] = fmean(figures["shared", method] for method in cell["merges"])

    interference = cell.get("interference") or {}
    whole, trimmed = interference.get("whole") or {}, interference.get("trimmed") or {}
    order = list(interference.get("tasks", tasks))
    norms = dict(zip(order, whole.get("norm", {}).get("l2", ()), strict=False))
    figures.update(_each_and_mean("norm", norms, tasks))
    if "cosine" in whole:
        position = {task: order.index(task) for task in tasks}
        pairs = {(s, t): whole["cosine"][position[s]][position[t]] for s in tasks for t in tasks}
        figures.update({("cosine", s, t): value for (s, t), value in pairs.items()})
        if len(tasks) > 1:
            figures["cosine",] = fmean(value for (s, t), value in pairs.items() if s != t)
    for prefix, part in (("", whole), ("trimmed_", trimmed)):
        conflict = part.get("sign_conflict", {})
        figures.update({("conflict", prefix + n): conflict[n] for n in CONFLICTS if n in conflict})

    sharpness = {task: (cell["experts"][task].get("sharpness") or {}).get("worst_case") for task in tasks}
    figures.update(_each_and_mean("sharpness", sharpness, tasks))
    return {key: float(value) for key, value in figures.items() if math.isfinite(value)}


def _each_and_mean(name: str, values: Mapping[str, float | None], tasks: list[str]) -> Figures:
    """Name the values of the tasks, and their mean if none is absent."""
    known = {task: value for task in tasks if (value := values.get(task)) is not None}
    figures: Figures = {(name, task): value for task, value in known.items()}
    if len(known) == len(tasks):
        figures[name,] = fmean(known.values())
    return figures


def _merged(merge: Mapping[str, Any], tasks: list[str], split: str) -> dict[str, dict[str, float]]:
    """Return protocol -> task -> accuracy of a merged model; validation figures are read off the curve."""
    shared, per_task = merge["shared"], merge["per_task"]
    if split == "test":
        return {name: {t: merge[name]["test"][t] for t in tasks} for name in ("shared", "per_task")}
    curve = {point["coefficient"]: point["validation"] for point in merge["curve"]}
    return {
        "shared": {task: curve[shared["coefficient"]][task] for task in tasks},
        "per_task": {task: curve[per_task["coefficients"][task]][task] for task in tasks},
    }


def _curve(method: str, cells: Mapping[int, Cell]) -> dict[float, Statistic]:
    points: dict[float, dict[int, float]] = {}
    for seed, cell in cells.items():
        for point in cell["merges"].get(method, {}).get("curve", ()):
            points.setdefault(point["coefficient"], {})[seed] = fmean(point["validation"].values())
    return {coefficient: Statistic(points[coefficient]) for coefficient in sorted(points)}


def _cosine_matrix(figures: Mapping[int, Figures], tasks: list[str]) -> list[list[float]] | None:
    seeds = [seed for seed, of_seed in figures.items() if ("cosine", tasks[0], tasks[0]) in of_seed]
    if not seeds:
        return None
    return [[fmean(figures[seed]["cosine", s, t] for seed in seeds) for t in tasks] for s in tasks]


def _rhos(cells: Mapping[int, Cell]) -> Iterator[float]:
    for cell in cells.values():
        for expert in cell["experts"].values():
            if expert.get("sharpness"):
                yield expert["sharpness"]["rho"]
