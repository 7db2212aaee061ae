"""The cells of one arm at one train size -> its row of the report, every figure over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from saft.interference.quantity import numbers_of
from saft.interference.retained import gain_kept, normalized
from saft.report.cell_result import CellResult, KeptParts, MergeFigures, Split, Weighted
from saft.report.held_out import HeldOutSummary, held_out_summary, lost_held_out
from saft.report.over_seeds import OverSeeds, complete_mean, finite_over_seeds
from saft.report.quantity_summary import QuantitySummary, quantity_summary
from saft.report.results import Results
from saft.tasks.metric import Metric, Score

__all__ = ["ArmSummary", "MergeSummary", "MetricSummary", "ScoreSummary", "arm_summary", "common_methods"]

LISTED = 3  # figures that are not finite, which are named

Scores = Mapping[int, Mapping[str, Score]]  # seed -> task -> score


@dataclass(frozen=True)
class ScoreSummary:
    """Scores of several tasks that have one metric. A mean over tasks is None unless all of them are there.

    Attributes:
        mean: raw value, mean over tasks.
        tasks: task -> raw value.
        errors: task -> standard error from the finite number of examples, mean over seeds; or None.
        examples: task -> how many these are; the fewest of the seeds.
        normalized: score over that of the experts, mean over tasks; None for the experts themselves.
        gain_kept: share of the experts' gain over the pretrained model, mean over tasks; None likewise.
    """

    mean: OverSeeds | None
    tasks: dict[str, OverSeeds]
    errors: dict[str, float | None]
    examples: dict[str, int]
    normalized: OverSeeds | None = None
    gain_kept: OverSeeds | None = None


@dataclass(frozen=True)
class MergeSummary:
    """A merge method in one arm, on the tasks of one metric.

    Attributes:
        shared: with one coefficient for all tasks.
        per_task: with one for each task.
        curve: coefficient -> raw validation value, mean over tasks.
        shared_coefficients: seed -> the coefficient.
        task_coefficients: seed -> task -> its coefficient.
        parts: what is stored where each task has a model of its own; None where one model is for all.
        weighted: with a weight for each task, or several along the layers; None where none were searched.
    """

    shared: ScoreSummary
    per_task: ScoreSummary
    curve: dict[float, OverSeeds]
    shared_coefficients: dict[int, float]
    task_coefficients: dict[int, dict[str, float]]
    parts: KeptParts | None = None
    weighted: ScoreSummary | None = None


@dataclass(frozen=True)
class MetricSummary:
    """An arm on the tasks of one metric: its experts, and method -> its merges."""

    experts: ScoreSummary
    merges: dict[str, MergeSummary]

    @property
    def averaged(self) -> list[str]:
        """The methods that means over methods are of: those that give one model; all where none does.

        A method that keeps a part per task must be told the task, so its scores are of another problem.
        """
        return [name for name, merge in self.merges.items() if merge.parts is None] or list(self.merges)

    def beside_others(self, common: Sequence[str]) -> list[str]:
        """Return the methods that its means are of beside other arms; its own where they have none in common.

        Args:
            common: from `common_methods`, of all the arms.
        """
        return [name for name in common or self.averaged if name in self.merges]


def common_methods(arms: Iterable[MetricSummary]) -> list[str]:
    """Return the methods that means over methods are of where arms stand side by side: those that all have.

    Where these are some that give one model and some that keep a part per task, it is the former alone.

    Args:
        arms: of one train size, on the tasks of one metric; those without any merge do not count.
    """
    known = [{m: of.parts for m, of in arm.merges.items() if of.shared.mean is not None} for arm in arms]
    first, *others = [methods for methods in known if methods] or [{}]
    common = [method for method in first if all(method in of for of in others)]
    return [method for method in common if first[method] is None] or common


@dataclass(frozen=True)
class ArmSummary:
    """One arm at one train size.

    Attributes:
        seeds: those that are there.
        steps: task -> optimizer steps that were taken, per seed; none of experts that are given.
        seconds: training time of one expert, mean over tasks, with its share of the merges between its arm's
            rounds; None where it is not known.
        memory: the most that a training took, bytes; None where it is not known.
        by_metric: metric -> the scores on its tasks.
        measured: quantity -> figures.
        lost: in words, the figures that are not finite: a line, or none.
        held_out: metric -> the scores on the tasks held out that have it.
    """

    train_size: str
    arm: str
    seeds: list[int]
    steps: dict[str, list[int]]
    seconds: OverSeeds | None
    memory: OverSeeds | None
    by_metric: dict[Metric, MetricSummary]
    measured: dict[str, QuantitySummary]
    lost: list[str]
    held_out: dict[Metric, HeldOutSummary]


def arm_summary(
    results: Results,
    train_size: str,
    arm: str,
    tasks_of: Mapping[Metric, list[str]],
    split: Split,
    held_out_of: Mapping[Metric, list[str]] | None = None,
) -> ArmSummary | None:
    """Return the row of one arm; None where it has no cell.

    Args:
        results: the experiment.
        train_size, arm: whose cells.
        tasks_of: metric -> the tasks that have it.
        split: which scores are reported.
        held_out_of: metric -> the tasks held out that have it; None where there are none.
    """
    cells = {c.seed: c for c in results.cells if (c.train_size, c.arm) == (train_size, arm)}
    if not cells:
        return None
    tasks = list(results.protocol.tasks)
    experts = {seed: list(cell.experts.values()) for seed, cell in cells.items()}
    return ArmSummary(
        train_size=train_size,
        arm=arm,
        seeds=list(cells),
        steps={
            task: [steps for cell in cells.values() if (steps := cell.experts[task].steps) is not None]
            for task in tasks
        },
        seconds=finite_over_seeds({s: c.seconds and c.seconds / len(tasks) for s, c in cells.items()}),
        memory=finite_over_seeds({s: _largest(e.memory for e in of) for s, of in experts.items()}),
        by_metric={m: _metric_summary(results, cells, m, of, split) for m, of in tasks_of.items()},
        measured={
            name: quantity_summary({s: c.measured.get(name) for s, c in cells.items()}, quantity, tasks)
            for name, quantity in results.quantities.items()
        },
        lost=_all_lost(f"{train_size}, {arm}", {seed: list(_lost(c, split)) for seed, c in cells.items()}),
        held_out={
            m: held_out_summary(cells, results.base, of, split) for m, of in (held_out_of or {}).items()
        },
    )


def _metric_summary(
    results: Results, cells: Mapping[int, CellResult], metric: Metric, tasks: list[str], split: Split
) -> MetricSummary:
    base = {task: score.value for task, of in results.base.items() if (score := of.on(split)) is not None}
    experts = {seed: _expert_scores(cell, split) for seed, cell in cells.items()}
    merges = {}
    for method in dict.fromkeys(method for cell in cells.values() for method in cell.merges):
        merged = {seed: cell.merges[method] for seed, cell in cells.items() if method in cell.merges}
        shared = {seed: _shared_scores(merge, split) for seed, merge in merged.items()}
        per_task = {seed: _per_task_scores(merge, split) for seed, merge in merged.items()}
        weighted = {s: _weighted_scores(m.weighted, split) for s, m in merged.items() if m.weighted}
        merges[method] = MergeSummary(
            shared=_score_summary(shared, tasks, metric, experts, base),
            per_task=_score_summary(per_task, tasks, metric, experts, base),
            curve=_curve(merged, tasks),
            shared_coefficients={seed: merge.shared.coefficient for seed, merge in merged.items()},
            task_coefficients={seed: merge.per_task.coefficients for seed, merge in merged.items()},
            parts=next((merge.parts for merge in merged.values() if merge.parts is not None), None),
            weighted=_score_summary(weighted, tasks, metric, experts, base) if weighted else None,
        )
    return MetricSummary(_score_summary(experts, tasks, metric), merges)


def _score_summary(
    scores: Scores,
    tasks: list[str],
    metric: Metric,
    experts: Scores | None = None,
    base: Mapping[str, float] | None = None,
) -> ScoreSummary:
    """Return the figures of one model per seed; those relative to experts and base where these are given."""
    by_task = {t: finite_over_seeds({seed: of[t].value for seed, of in scores.items()}) for t in tasks}
    ratios, gains = {}, {}
    for seed, of in scores.items() if experts is not None else ():
        pairs = {task: (of[task].value, experts[seed][task].value) for task in tasks}  # type: ignore[index]
        ratios[seed] = complete_mean(normalized(*pair, metric.higher_is_better) for pair in pairs.values())
        gains[seed] = complete_mean(
            gain_kept(value, base[task], expert) if base and task in base else None
            for task, (value, expert) in pairs.items()
        )
    return ScoreSummary(
        mean=finite_over_seeds(
            {seed: complete_mean(of[task].value for task in tasks) for seed, of in scores.items()}
        ),
        tasks={task: values for task, values in by_task.items() if values is not None},
        errors={task: complete_mean(of[task].standard_error for of in scores.values()) for task in tasks},
        examples={task: min((of[task].examples for of in scores.values()), default=0) for task in tasks},
        normalized=finite_over_seeds(ratios),
        gain_kept=finite_over_seeds(gains),
    )


def _expert_scores(cell: CellResult, split: Split) -> dict[str, Score]:
    scores = {task: expert.on(split) for task, expert in cell.experts.items()}
    return {task: score for task, score in scores.items() if score is not None}


def _shared_scores(merge: MergeFigures, split: Split) -> dict[str, Score]:
    """Return the scores of a merged model; those of validation are read off the curve."""
    if split == "test":
        return merge.shared.test or {}
    return next(p.validation for p in merge.curve if p.coefficient == merge.shared.coefficient)


def _per_task_scores(merge: MergeFigures, split: Split) -> dict[str, Score]:
    if split == "test":
        return merge.per_task.test or {}
    curve = {point.coefficient: point.validation for point in merge.curve}
    return {task: curve[chosen][task] for task, chosen in merge.per_task.coefficients.items()}


def _weighted_scores(weighted: Weighted, split: Split) -> dict[str, Score]:
    return (weighted.test or {}) if split == "test" else weighted.validation


def _curve(merges: Mapping[int, MergeFigures], tasks: list[str]) -> dict[float, OverSeeds]:
    points: dict[float, dict[int, float | None]] = {}
    for seed, merge in merges.items():
        for point in merge.curve:
            mean = complete_mean(point.validation[task].value for task in tasks)
            points.setdefault(point.coefficient, {})[seed] = mean
    curve = {coefficient: finite_over_seeds(points[coefficient]) for coefficient in sorted(points)}
    return {coefficient: values for coefficient, values in curve.items() if values is not None}


def _all_lost(whose: str, of_seeds: Mapping[int, list[str]]) -> list[str]:
    """Return a line on what is not finite in some seeds, the first few figures by name; or none."""
    seeds_of: dict[str, list[str]] = {}
    for seed, lost in of_seeds.items():
        for figure in lost:
            seeds_of.setdefault(figure, []).append(str(seed))
    if not seeds_of:
        return []
    first, *others = seeds_of.values()
    alike = all(seeds == first for seeds in others)
    told = [
        figure if alike else f"{figure} (seed {', '.join(seeds)})"
        for figure, seeds in list(seeds_of.items())[:LISTED]
    ]
    if len(seeds_of) > LISTED:
        told.append(f"and {len(seeds_of) - LISTED} more figures")
    seeds = f", seed {', '.join(first)}" if alike else ""
    return [f"{whose}{seeds}: not finite: {'; '.join(told)}"]


def _lost(cell: CellResult, split: Split) -> Iterator[str]:
    """Yield in words what was computed and is not finite: no mean holds it."""
    scores = {"experts": _expert_scores(cell, split)}
    scores |= {method: _shared_scores(merge, split) for method, merge in cell.merges.items()}
    scores |= {
        f"{method} with searched weights": _weighted_scores(merge.weighted, split)
        for method, merge in cell.merges.items()
        if merge.weighted is not None
    }
    for whose, of_tasks in scores.items():
        broken = [task for task, score in of_tasks.items() if not math.isfinite(score.value)]
        if broken:
            yield f"score of {whose} on {', '.join(broken)}"
    yield from lost_held_out(cell, split)
    for name, value in cell.measured.items():
        broken = [" and ".join(key) for key, number in numbers_of(value) if not math.isfinite(number)]
        if broken:
            yield name + (f" on {', '.join(broken)}" if any(broken) else "")


def _largest(values: Iterable[float | None]) -> float | None:
    """Return the largest; None where one is not known."""
    known = [math.nan if value is None else value for value in values]
    return max(known, default=None) if all(map(math.isfinite, known)) else None
