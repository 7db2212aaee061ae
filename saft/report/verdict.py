"""Did fine-tuning for the merge help? The comparisons in words, and no more than they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saft.report.cell_result import Split
from saft.report.comparison import Comparison, Difference
from saft.report.over_seeds import signed
from saft.tasks.metric import Metric

__all__ = [
    "Finding",
    "differences_of",
    "in_words",
    "interval",
    "points",
    "unit_of_differences",
    "verdict",
    "with_unit",
]


@dataclass(frozen=True)
class Finding:
    """One conclusion in a sentence, and the figures it rests on, each in words."""

    conclusion: str
    figures: tuple[str, ...] = ()


def verdict(comparisons: Sequence[Comparison], metrics: Sequence[Metric], split: Split) -> list[Finding]:
    """Return the verdict of one train size: a finding for each arm that is not plain, and each metric.

    Args:
        comparisons: those of this train size.
        metrics: of the tasks; where there are several, each has findings of its own.
        split: that the scores are of.
    """
    if not comparisons:
        return [
            Finding(
                "Nothing to compare: it takes an arm with an ascent, a penalty, an average or the like, a "
                "plain one, and a common seed."
            )
        ]
    findings = []
    if split == "validation":
        findings.append(
            Finding(
                "The test split was not read: these are validation scores, on which coefficients (and "
                "perhaps steps and rho) were chosen, so they are optimistic."
            )
        )
    for arm in dict.fromkeys(comparison.arm for comparison in comparisons):
        for metric in metrics:
            of_arm = [c for c in comparisons if c.arm == arm and c.metric == metric]
            if of_arm:
                whose = f"{arm}, {metric.name}" if len(metrics) > 1 else arm
                conclusion = " ".join((_merged(of_arm), *_experts(of_arm)))
                findings.append(Finding(f"{whose}: {conclusion}", tuple(map(_figure, of_arm))))
    return findings


def in_words(metric: Metric) -> str:
    """Return a metric's name, with what a reader must know: its unit, and which way is better.

    Example:
        >>> in_words(Metric("accuracy", "%")), in_words(Metric("loss", "nats", False, 1, 3))
        ('accuracy in percent', 'loss in nats (lower is better)')
    """
    unit = {"": "", "%": " in percent"}.get(metric.unit, f" in {metric.unit}")
    return f"{metric.name}{unit}{'' if metric.higher_is_better else ' (lower is better)'}"


def with_unit(metric: Metric) -> str:
    """Return what an axis is labelled with: a metric's name and unit.

    Example:
        >>> with_unit(Metric("accuracy", "%")), with_unit(Metric("perplexity", "", False))
        ('accuracy, %', 'perplexity')
    """
    return f"{metric.name}, {metric.unit}" if metric.unit else metric.name


def points(value: float, metric: Metric) -> str:
    """Return a difference as the metric prints its values, with its sign."""
    return signed(value, metric.scale, metric.digits)


def interval(ends: tuple[float, float] | None, metric: Metric) -> str:
    """Return an interval of differences; a dash where there is none.

    Example:
        >>> interval((-0.004, 0.021), Metric("accuracy", "%")), interval(None, Metric("accuracy", "%"))
        ('−0.4 to +2.1', '–')
    """
    return "–" if ends is None else f"{points(ends[0], metric)} to {points(ends[1], metric)}"


def differences_of(metric: Metric) -> str:
    """Return the heading of a column of differences.

    Example:
        >>> differences_of(Metric("accuracy", "%")), differences_of(Metric("perplexity", ""))
        ('differences in points', 'differences')
    """
    unit = unit_of_differences(metric)
    return f"differences in{unit}" if unit else "differences"


def unit_of_differences(metric: Metric) -> str:
    """Return what follows a difference: points of percent, else the metric's own unit, if it has one.

    Example:
        >>> unit_of_differences(Metric("accuracy", "%")), unit_of_differences(Metric("perplexity", ""))
        (' points', '')
    """
    return " points" if metric.unit == "%" else f" {metric.unit}" if metric.unit else ""


def _merged(comparisons: list[Comparison]) -> str:
    single = [comparison for comparison in comparisons if comparison.merged.values.n == 1]
    if single and len(single) < len(comparisons):
        several = [comparison for comparison in comparisons if comparison not in single]
        names = ", ".join(comparison.baseline for comparison in single)
        return f"{_merged(several)} With {names} it has one seed in common, so nothing can be concluded."
    if single:
        ahead = sum(c.metric.is_better(c.merged.values.mean, 0.0) for c in comparisons)
        return (
            "one seed, so no spread can be given and nothing can be concluded; on this seed its merged model "
            f"is ahead of {ahead} of {len(comparisons)} plain arms."
        )
    outcomes: dict[str, list[str]] = {}
    for comparison in comparisons:
        outcomes.setdefault(comparison.merged.outcome, []).append(comparison.baseline)
    if len(outcomes) > 1:
        words = {"better": "better than", "worse": "worse than", "within the noise": "within the noise of"}
        parts = (f"{words[outcome]} {', '.join(names)}" for outcome, names in outcomes.items())
        return f"the merged model is {'; '.join(parts)}."
    every, any_ = ("every", "any") if len(comparisons) > 1 else ("the one", "the one")
    examples = " on these examples" if any(c.merged.is_open for c in comparisons) else ""
    return {
        "better": f"it helps{examples}: the merged model is better than that of {every} plain arm.",
        "worse": f"it does not help{examples}: the merged model is worse than that of {every} plain arm.",
        "within the noise": f"these runs do not show that it helps: no difference from {any_} plain arm is "
        "larger than the noise.",
    }[comparisons[0].merged.outcome]


def _experts(comparisons: list[Comparison]) -> list[str]:
    """Return what has to be said of the single-task models: a difference of theirs is not made by merging."""
    sentences = []
    for outcomes, word in (
        (("worse", "behind, one seed"), "worse"),
        (("better", "ahead, one seed"), "better"),
    ):
        beyond = [c for c in comparisons if c.experts.outcome in outcomes]
        if beyond:
            names = ", ".join(
                f"{c.baseline} ({points(c.experts.values.mean, c.metric)}{unit_of_differences(c.metric)})"
                for c in beyond
            )
            one_seed = any(c.experts.values.n == 1 for c in beyond)
            bound = "what the examples leave open (one seed)" if one_seed else "the noise"
            sentences.append(f"Its experts are {word} before merging, beyond {bound}, than those of {names}.")
    return sentences


def _figure(comparison: Comparison) -> str:
    merged, metric = comparison.merged, comparison.metric
    return (
        f"Against {comparison.baseline} ({comparison.relation}): {points(merged.values.mean, metric)}"
        f"{unit_of_differences(metric)}, {metric.format(merged.arm)} against "
        f"{metric.format(merged.baseline)} ({_certainty(merged, metric)}); experts "
        f"{points(comparison.experts.values.mean, metric)} ({comparison.experts.outcome})."
    )


def _certainty(difference: Difference, metric: Metric) -> str:
    values, examples = difference.values, difference.over_examples
    over_examples = f"over the examples {interval(examples, metric)}"
    if values.interval is None:
        if examples is None:
            return "the error of the evaluation is not known, so nothing can be said of its size"
        return f"95 % interval {over_examples}"
    yet = difference.outcome != "within the noise" and difference.is_open
    seeds = f"{values.n} seeds, 95 % interval {interval(values.interval, metric)}"
    return f"{seeds}; {'yet ' if yet else ''}{over_examples}" if yet or difference.is_paired else seeds
