"""Every arm that is not plain against every plain one: differences paired by seed, and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal

from saft.interference.paired_interval import freedom_of_mean
from saft.report.arm_summary import ArmSummary
from saft.report.over_seeds import OverSeeds
from saft.report.results import ArmFacts, PairedError
from saft.report.with_interval import Estimate, experts_estimate, merged_estimate, over_examples
from saft.tasks.metric import Metric

__all__ = ["Comparison", "Difference", "Outcome", "compare", "relation"]

Outcome = Literal["better", "worse", "within the noise", "ahead, one seed", "behind, one seed", "unknown"]


@dataclass(frozen=True)
class Difference:
    """An arm's score minus another's, paired by seed, mean over the tasks of one metric.

    Attributes:
        arm, baseline: the two raw values, mean over the common seeds.
        values: the difference, raw: below 0 is better where lower is better.
        standard_error: of the difference, from the finite number of examples: paired example by example
            where each one's part is known, as of merged models; else the two arms are taken as independent
            (they share their examples, so it is rather too large). None where it is not known.
        freedom: degrees of freedom of Student's t for that error; not finite where it is that of many
            examples, or not known.
        is_paired: whether that error is of pairs.
        outcome: "better" or "worse" when 0 is outside the 95 % interval over seeds, else "within the noise".
            With one seed: "ahead" or "behind" when it is outside the one over the examples.
    """

    arm: float
    baseline: float
    values: OverSeeds
    standard_error: float | None
    freedom: float
    is_paired: bool
    outcome: Outcome

    @property
    def over_examples(self) -> tuple[float, float] | None:
        """95 % interval over the examples, for these seeds (Student's t); None where it is not known."""
        return over_examples(self.values.mean, self.standard_error, self.freedom)

    @property
    def ends(self) -> tuple[float, float] | None:
        """95 % interval over the seeds; of one seed over the examples; None where it is not known."""
        return Estimate(self.values, self.standard_error, self.freedom).ends

    @property
    def is_open(self) -> bool:
        """Whether the examples leave open which of the two is better."""
        return self.over_examples is not None and _holds_zero(self.over_examples)


@dataclass(frozen=True)
class Comparison:
    """One arm that is not plain against one that is, at one train size, on the tasks of one metric.

    Attributes:
        relation: in words, what the two have in common: steps, passes.
        methods: the merge methods that both have, and that give one model, which `merged` is the mean over.
        merged: with the shared coefficient, mean over tasks and `methods`.
        by_method: merge method -> the difference with it.
        errors: merge method -> the standard error of its difference, paired example by example, where it is
            known.
        experts: of the single-task models.
    """

    train_size: str
    arm: str
    baseline: str
    metric: Metric
    relation: str
    methods: list[str]
    merged: Difference
    by_method: dict[str, OverSeeds]
    errors: dict[str, float]
    experts: Difference


def compare(
    rows: Iterable[ArmSummary],
    facts: Callable[[str, str], ArmFacts],
    plain: Mapping[str, Collection[str]],
    metrics: Iterable[Metric],
    paired: Iterable[PairedError] = (),
) -> list[Comparison]:
    """Compare every arm that is not plain with every arm of its train size that is.

    Args:
        rows: arms, each at one train size.
        facts: (train size, arm) -> what the arm is.
        plain: train size -> the arms that are plain.
        metrics: those of the tasks; each is compared by itself.
        paired: standard errors of differences between merged models, paired example by example.
    """
    rows, metrics = list(rows), list(metrics)
    errors = {(e.train_size, e.arm, e.baseline, e.metric, frozenset(e.methods)): e for e in paired}

    def error(
        row: ArmSummary, baseline: ArmSummary, metric: Metric, methods: Iterable[str]
    ) -> PairedError | None:
        return errors.get((row.train_size, row.arm, baseline.arm, metric.name, frozenset(methods)))

    compared = (
        _comparison(
            row, baseline, metric, _relation(row, baseline, facts), partial(error, row, baseline, metric)
        )
        for row in rows
        for baseline in rows
        for metric in metrics
        if row.train_size == baseline.train_size
        if row.arm not in plain[row.train_size]
        if baseline.arm in plain[row.train_size]
    )
    return [comparison for comparison in compared if comparison is not None]


def relation(arm: ArmFacts, baseline: ArmFacts) -> str:
    """Return what two arms have in common, as far as it is true.

    Example:
        >>> sam = ArmFacts("SAM", "sam", 0.05, steps=100, passes=200)
        >>> relation(sam, ArmFacts("AdamW", None, None, steps=100, passes=100))
        'the same number of steps, 2 times the passes'
        >>> relation(sam, ArmFacts("AdamW, longer", None, None, steps=200, passes=200))
        'the same number of forward and backward passes'
    """
    if arm.steps is None or arm.passes is None or baseline.passes is None:
        return "trained elsewhere, in passes that are not known"
    if baseline.select_steps and arm.select_steps:
        return "steps of both chosen on validation data"
    if baseline.select_steps or arm.select_steps:
        which = "plain" if baseline.select_steps else "other"
        return f"steps of the {which} arm chosen on validation data"
    same_passes = math.isclose(arm.passes, baseline.passes)
    if arm.steps == baseline.steps:
        return "the same number of steps" + (
            " and of passes" if same_passes else f", {arm.passes / baseline.passes:.3g} times the passes"
        )
    if same_passes:
        return "the same number of forward and backward passes"
    return f"{arm.passes / baseline.passes:.3g} times the passes"


def _relation(arm: ArmSummary, baseline: ArmSummary, facts: Callable[[str, str], ArmFacts]) -> str:
    """Return what two arms have in common, and what the one costs in terms of the other, as measured."""
    words = relation(*(facts(row.train_size, row.arm) for row in (arm, baseline)))
    if arm.seconds is None or baseline.seconds is None or baseline.seconds.mean <= 0:
        return words
    return f"{words}, {arm.seconds.mean / baseline.seconds.mean:.2g} times the seconds"


def _comparison(
    arm: ArmSummary,
    baseline: ArmSummary,
    metric: Metric,
    in_common: str,
    error: Callable[[Iterable[str]], PairedError | None],
) -> Comparison | None:
    one, other = arm.by_metric[metric], baseline.by_metric[metric]
    by_method = {
        method: difference
        for method in one.merges
        if method in other.merges
        and (difference := _minus(one.merges[method].shared.mean, other.merges[method].shared.mean))
        is not None
    }
    methods = [m for m in by_method if m in one.averaged and m in other.averaged] or list(by_method)
    merged = _difference(
        merged_estimate(one, methods), merged_estimate(other, methods), metric, error(methods)
    )
    experts = _difference(experts_estimate(one), experts_estimate(other), metric)
    if merged is None or experts is None:
        return None
    errors = {m: of.standard_error for m in by_method if (of := error([m])) is not None}
    return Comparison(
        arm.train_size, arm.arm, baseline.arm, metric, in_common, methods, merged, by_method, errors, experts
    )


def _minus(one: OverSeeds | None, other: OverSeeds | None) -> OverSeeds | None:
    return None if one is None or other is None else one.minus(other)


def _difference(
    one: Estimate | None, other: Estimate | None, metric: Metric, paired: PairedError | None = None
) -> Difference | None:
    if one is None or other is None or (values := one.values.minus(other.values)) is None:
        return None
    standard_error, freedom = None, math.inf
    if paired is not None:
        standard_error, freedom = paired.standard_error, paired.freedom
    elif one.error is not None and other.error is not None:
        errors, freedoms = (one.error, other.error), (one.freedom, other.freedom)
        standard_error, freedom = math.hypot(*errors), freedom_of_mean(errors, [1 + f for f in freedoms])
    return Difference(
        arm=fmean(one.values.by_seed[seed] for seed in values.by_seed),
        baseline=fmean(other.values.by_seed[seed] for seed in values.by_seed),
        values=values,
        standard_error=standard_error,
        freedom=freedom,
        is_paired=paired is not None,
        outcome=_outcome(Estimate(values, standard_error, freedom), metric),
    )


def _holds_zero(ends: tuple[float, float]) -> bool:
    return ends[0] <= 0 <= ends[1]


def _outcome(difference: Estimate, metric: Metric) -> Outcome:
    if difference.ends is None:
        return "unknown"
    if _holds_zero(difference.ends):
        return "within the noise"
    several = difference.values.n > 1
    if metric.is_better(difference.mean, 0.0):
        return "better" if several else "ahead, one seed"
    return "worse" if several else "behind, one seed"
