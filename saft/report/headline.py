"""What the first screen says: what an arm gains over the best plain one, and at equal passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from saft.report.arm_summary import common_methods
from saft.report.cell_result import Split
from saft.report.comparison import Comparison
from saft.report.results import ArmFacts, Results
from saft.report.summary import Summary
from saft.report.verdict import interval, points
from saft.report.with_interval import Estimate, experts_estimate, merged_estimate, task_estimate
from saft.tasks.metric import Metric

__all__ = ["Gain", "Headline", "headlines"]

FOREMOST = 6  # gains above the picture, so that a telephone shows both on its first screen
ONE_LINE = 22  # letters of a name that a telephone shows beside its gain
ROUNDED = 1.01  # times an arm's passes: as many, of a whole number of steps
SHORT = {
    "better": "Yes",
    "worse": "No",
    "within the noise": "Not shown",
    "ahead, one seed": "Ahead",
    "behind, one seed": "Behind",
    "unknown": "Not known",
}


@dataclass(frozen=True)
class Gain:
    """What an arm that is not plain gains when merged.

    Attributes:
        arm: one that is not plain; see `plain_arms`.
        over_best: against the arm without that has the best merged score of all.
        equal_passes: against the best that takes as many passes, or a little more since steps are whole;
            None where none does.
    """

    arm: str
    over_best: Comparison
    equal_passes: Comparison | None

    @property
    def answer(self) -> str:
        """The answer in a word or two, against the best plain arm."""
        return SHORT[self.over_best.merged.outcome]

    @property
    def figures(self) -> list[tuple[str, str, str, str]]:
        """Each comparison: points, against whom, with what interval, and the outcome in words."""
        both = [("the best plain arm", self.over_best)]
        if self.equal_passes is self.over_best:
            both = [("the best plain arm, which takes as many passes", self.over_best)]
        elif self.equal_passes is not None:
            both.append(("the best that takes as many passes", self.equal_passes))
        return [
            (points(c.merged.values.mean, c.metric), f"{words}: {c.baseline}", certainty(c), c.merged.outcome)
            for words, c in both
        ]


@dataclass(frozen=True)
class Headline:
    """The answer at one train size, on the tasks of one metric.

    Attributes:
        experts, merged: arm -> score, mean over tasks, and over the methods that all arms have, or its own
            where they have none in common; arms that have both.
        over: in words, which methods these are; empty where they are all that give one model.
        by_task: task -> arm -> the same two, on this task.
        gains: of every arm that can be compared.
    """

    train_size: str
    metric: Metric
    experts: dict[str, Estimate]
    merged: dict[str, Estimate]
    over: str
    by_task: dict[str, dict[str, tuple[Estimate, Estimate]]]
    gains: list[Gain]

    @property
    def foremost(self) -> list[Gain]:
        """The gains that the first screen has room for: all, or those that are largest, best first."""
        most = FOREMOST if all(len(gain.arm) <= ONE_LINE for gain in self.gains) else FOREMOST // 2
        if len(self.gains) <= most:
            return self.gains
        higher = self.metric.higher_is_better
        best_first = sorted(self.gains, key=lambda gain: gain.over_best.merged.values.mean, reverse=higher)
        return best_first[:most]

    def intervals(self, split: Split) -> str:
        """Return what the intervals of the merged scores are over; empty where none is known.

        Args:
            split: that the scores are of.
        """
        seeds = sorted({of.values.n for of in self.merged.values() if of.values.n > 1})
        words = [f"{' to '.join(map(str, seeds[:1] + seeds[1:][-1:]))} seeds"] if seeds else []
        if any(of.values.n == 1 and of.ends is not None for of in self.merged.values()):
            words.append(f"{'of one seed over ' if words else ''}the {split} examples")
        return ", ".join(words)


def headlines(results: Results, summary: Summary) -> list[Headline]:
    """Return the answers, in the order of train sizes and metrics; only where there is a result.

    Args:
        results: the experiment.
        summary: of it.
    """
    return [
        _headline(results, summary, size, metric)
        for size in summary.train_sizes
        if summary.of_size(size)
        for metric in summary.metrics
    ]


def certainty(comparison: Comparison) -> str:
    """Return the interval of a difference and what it is over."""
    difference, metric = comparison.merged, comparison.metric
    if difference.values.interval is not None:
        return f"95 % interval {interval(difference.values.interval, metric)}, {difference.values.n} seeds"
    if difference.over_examples is None:
        return "error not known, one seed"
    told = "" if "one seed" in difference.outcome else ", one seed"
    return f"95 % interval {interval(difference.over_examples, metric)} over the examples{told}"


def _headline(results: Results, summary: Summary, size: str, metric: Metric) -> Headline:
    experts, merged = {}, {}
    by_task: dict[str, dict[str, tuple[Estimate, Estimate]]] = {t: {} for t in summary.tasks_of[metric]}
    rows = summary.of_size(size)
    common = common_methods(row.by_metric[metric] for row in rows)
    for row in rows:
        scores = row.by_metric[metric]
        methods = scores.beside_others(common)
        of_experts, of_merged = experts_estimate(scores), merged_estimate(scores, methods)
        if of_experts is None or of_merged is None:
            continue
        experts[row.arm], merged[row.arm] = of_experts, of_merged
        merges = [scores.merges[method].shared for method in methods]
        for task, of_arms in by_task.items():
            of_task = task_estimate([scores.experts], task), task_estimate(merges, task)
            if of_task[0] is not None and of_task[1] is not None:
                of_arms[row.arm] = (of_task[0], of_task[1])
    compared = [c for c in summary.comparisons if (c.train_size, c.metric) == (size, metric)]
    arms = dict.fromkeys(c.arm for c in compared)
    gains = [_gain([c for c in compared if c.arm == arm], results) for arm in arms]
    return Headline(size, metric, experts, merged, _over(common, summary), by_task, gains)


def _over(common: Sequence[str], summary: Summary) -> str:
    if not common:
        return "each arm’s own merge methods: the arms have none in common"
    every = summary.one_model or summary.methods
    names = ", ".join(summary.title(method) for method in common)
    return "" if set(common) == set(every) else f"{names}, the merge methods that all arms have"


def _gain(comparisons: Sequence[Comparison], results: Results) -> Gain:
    equal = [
        c
        for c in comparisons
        if _equal_passes(results.facts(c.train_size, c.arm), results.facts(c.train_size, c.baseline))
    ]
    return Gain(comparisons[0].arm, _hardest(comparisons), _hardest(equal) if equal else None)


def _hardest(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the one whose baseline has the best merged score."""
    best = comparisons[0]
    for other in comparisons[1:]:
        if other.metric.is_better(other.merged.baseline, best.merged.baseline):
            best = other
    return best


def _equal_passes(arm: ArmFacts, baseline: ArmFacts) -> bool:
    chosen = arm.select_steps or baseline.select_steps
    if chosen or arm.passes is None or baseline.passes is None:
        return False
    as_many = arm.passes < baseline.passes or math.isclose(arm.passes, baseline.passes)
    return as_many and baseline.passes <= ROUNDED * arm.passes
