"""Results -> what the report shows: a row for each arm, every figure over the seeds, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from saft.report.arm_summary import ArmSummary, arm_summary
from saft.report.cell_result import FailedCell, KeptParts, Split
from saft.report.comparison import Comparison, compare
from saft.report.kept_parts import kept_sentences, method_title
from saft.report.named_merges import named_merges
from saft.report.plain_arms import plain_arms
from saft.report.results import Results, TaskFacts
from saft.report.verdict import Finding, verdict
from saft.tasks.metric import Metric

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """What the report shows.

    Attributes:
        split: "test", or "validation" when the run did not read the test split.
        tasks: in the order of the results.
        tasks_of: metric -> the tasks that have it: a mean over tasks is over those of one metric.
        held_out_of: metric -> the tasks that are held out and have it.
        methods: merge methods.
        train_sizes: names.
        seeds: of the grid.
        base: task -> raw score of the pretrained model, also of tasks that are held out.
        base_validation: task -> the same on the validation split, whichever is reported.
        rows: (train size, arm) -> figures, in the order of the results; only what has at least one cell.
        missing: in words, what the grid has and the results have not, and what is not finite.
        comparisons: every arm that is not plain against every plain one.
        verdict: train size -> findings.
        parts: merge method -> what it stores, of those that keep a part per task.
        named: in words, which methods the merges are that have a name of their own.
    """

    split: Split
    tasks: list[str]
    tasks_of: dict[Metric, list[str]]
    held_out_of: dict[Metric, list[str]]
    methods: list[str]
    train_sizes: list[str]
    seeds: list[int]
    base: dict[str, float]
    base_validation: dict[str, float]
    rows: dict[tuple[str, str], ArmSummary]
    missing: list[str]
    comparisons: list[Comparison]
    verdict: dict[str, list[Finding]]
    parts: dict[str, KeptParts]
    named: list[str]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the tasks."""
        return list(self.tasks_of)

    @property
    def of_methods(self) -> list[str]:
        """What a reader must know of the methods: of those named anew, of those that keep a part per task."""
        return self.named + kept_sentences(self.parts, others=len(self.parts) < len(self.methods))

    @property
    def one_model(self) -> list[str]:
        """The methods that give one model for all tasks, which can be asked what none of its tasks asks."""
        return [method for method in self.methods if method not in self.parts]

    def title(self, method: str) -> str:
        """Return what a merge method is called at the head of its figures."""
        return method_title(method, self.parts.get(method))

    def of_size(self, train_size: str) -> list[ArmSummary]:
        """Return the rows of one train size."""
        return [row for (name, _), row in self.rows.items() if name == train_size]

    def base_mean(self, metric: Metric) -> float | None:
        """Return the pretrained model's score, mean over the tasks of a metric; None unless all are there."""
        return self.base_over(self.tasks_of[metric])

    def base_over(self, tasks: Sequence[str], validation: bool = False) -> float | None:
        """Return the pretrained model's mean score over tasks; None unless all are there.

        Args:
            tasks: of one metric.
            validation: take the validation split, whichever is reported.
        """
        scores = self.base_validation if validation else self.base
        return fmean(scores[task] for task in tasks) if all(task in scores for task in tasks) else None

    def best(
        self, train_size: str, metric: Metric, method: str, coefficient: Literal["shared", "per_task"]
    ) -> float | None:
        """Return the best mean of a column of merged scores; None where it is empty.

        Args:
            train_size: of the rows.
            metric: of the column; it says which way is better.
            method: name of the merge method.
            coefficient: one for all tasks, or one for each.
        """
        merges = (row.by_metric[metric].merges.get(method) for row in self.of_size(train_size))
        means = [s.mean for m in merges if m is not None and (s := getattr(m, coefficient).mean) is not None]
        return (max if metric.higher_is_better else min)(means, default=None)


def summarize(results: Results) -> Summary:
    """Aggregate the results of an experiment over its seeds and compare its arms.

    Args:
        results: an unfinished grid is summarized as far as it goes.

    Returns:
        Raw figures; means and standard deviations (n - 1) over the seeds that are there.
    """
    protocol = results.protocol
    split: Split = "test" if protocol.tests else "validation"
    tasks_of, held_out_of = _by_metric(protocol.tasks), _by_metric(protocol.held_out)
    rows = {
        (size, arm): row
        for size in protocol.train_sizes
        for arm in results.arms
        if (row := arm_summary(results, size, arm, tasks_of, split, held_out_of)) is not None
    }
    base = {task: score.value for task, of in results.base.items() if (score := of.on(split)) is not None}
    plain = {
        size: plain_arms({arm: results.facts(size, arm) for arm in results.arms})
        for size in protocol.train_sizes
    }
    comparisons = compare(rows.values(), results.facts, plain, tasks_of, results.paired_errors)
    return Summary(
        split=split,
        tasks=list(protocol.tasks),
        tasks_of=tasks_of,
        held_out_of=held_out_of,
        methods=list(dict.fromkeys(method for cell in results.cells for method in cell.merges)),
        train_sizes=list(protocol.train_sizes),
        seeds=list(protocol.seeds),
        base=base,
        base_validation={task: of.validation.value for task, of in results.base.items()},
        rows=rows,
        missing=list(_missing(results, rows)),
        comparisons=comparisons,
        verdict={
            size: verdict([c for c in comparisons if c.train_size == size], list(tasks_of), split)
            for size in protocol.train_sizes
        },
        parts={
            method: merge.parts
            for cell in results.cells
            for method, merge in cell.merges.items()
            if merge.parts is not None
        },
        named=named_merges(results.config),
    )


def _by_metric(tasks: Mapping[str, TaskFacts]) -> dict[Metric, list[str]]:
    by_metric: dict[Metric, list[str]] = {}
    for task, facts in tasks.items():
        by_metric.setdefault(facts.metric, []).append(task)
    return by_metric


def _seeds_of(failed: FailedCell, results: Results) -> Sequence[int]:
    return results.protocol.seeds if failed.seed is None else [failed.seed]


def _missing(results: Results, rows: dict[tuple[str, str], ArmSummary]) -> Iterator[str]:
    """Yield in words the cells and merges of the grid that are not there, and what is not finite."""
    yield from map(str, results.failed)
    failed = {(of.train_size, of.arm, seed) for of in results.failed for seed in _seeds_of(of, results)}
    cells = {(cell.train_size, cell.arm, cell.seed): cell for cell in results.cells}
    told = cells.keys() | failed
    methods = dict.fromkeys(method for cell in results.cells for method in cell.merges)
    for size in results.protocol.train_sizes:
        for arm in results.arms:
            seeds = results.protocol.seeds
            if results.arms[arm].is_given:  # they have no seed, and stand under the first
                seeds = [s for s in seeds if (size, arm, s) in cells] or seeds[:1]
            absent = [str(seed) for seed in seeds if (size, arm, seed) not in told]
            if absent:
                yield f"{size}, {arm}: no result for seed {', '.join(absent)}"
            for method in methods:
                lacking = [
                    str(cell.seed)
                    for (of_size, of_arm, _), cell in cells.items()
                    if (of_size, of_arm) == (size, arm) and method not in cell.merges
                ]
                if lacking:
                    yield f"{size}, {arm}: no {method} for seed {', '.join(lacking)}"
            if (size, arm) in rows:
                yield from rows[size, arm].lost
