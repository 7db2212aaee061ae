"""Did sharpness-aware fine-tuning help? Paired differences to the arms without ascent, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from saft.report.statistic import Statistic, interval, signed

if TYPE_CHECKING:
    from saft.report.summary import ArmSummary

__all__ = ["Comparison", "Finding", "compare", "in_words"]

ROLES = {
    "equal_steps": "the same number of steps",
    "equal_passes": "the same number of forward and backward passes",
    "selected_steps": "steps chosen on validation data",
}

BETTER, WORSE, NOISE, UNKNOWN = "better", "worse", "within the noise", "unknown"
AHEAD, BEHIND = "ahead, one seed", "behind, one seed"

Rows = Mapping[tuple[str, str], "ArmSummary"]


@dataclass(frozen=True)
class Comparison:
    """One sharpness-aware arm minus one arm without ascent, paired by seed, with the shared coefficient.

    Attributes:
        difference: of merged accuracy, mean over tasks and merge methods.
        by_method: merge method -> the same for it alone.
        experts: of the single-task accuracy, mean over tasks.
        standard_error: binomial, of `difference`, from the number of evaluated examples alone, the two arms
            taken as independent (they share their examples, so it is rather too large); None when unknown.
        outcome: "better" or "worse" when 0 is outside the 95 % interval over seeds, else "within the noise".
            With one seed: "ahead" or "behind" when it is outside two standard errors.
    """

    regime: str
    arm: str
    baseline: str
    arm_merged: float
    baseline_merged: float
    difference: Statistic
    by_method: dict[str, Statistic]
    experts: Statistic
    standard_error: float | None
    outcome: str

    @property
    def below_evaluation_error(self) -> bool:
        """Whether the difference is less than two standard errors of the evaluation."""
        return self.standard_error is not None and abs(self.difference.mean) < 2 * self.standard_error


@dataclass(frozen=True)
class Finding:
    """One conclusion in a sentence, and the figures it rests on, each in words."""

    conclusion: str
    figures: tuple[str, ...] = ()


def compare(results: Mapping[str, Any], rows: Rows, split: str) -> list[Comparison]:
    """Compare every arm that has a perturbation with every arm of its regime that has none."""
    sharp = [name for name, arm in results["arms"].items() if arm.get("perturbation")]
    plain = [name for name in results["arms"] if name not in sharp]
    found = (
        _comparison(rows[regime, arm], rows[regime, baseline], results["protocol"]["tasks"], split)
        for regime in results["protocol"]["regimes"]
        for arm in sharp
        for baseline in plain
        if (regime, arm) in rows and (regime, baseline) in rows
    )
    return [comparison for comparison in found if comparison is not None]


def binomial_error(row: ArmSummary, tasks: Mapping[str, Any], split: str) -> float | None:
    """Return the standard error of an arm's merged accuracy that comes from the finite number of examples.

    ``sqrt(sum_t p_t (1 - p_t) / n_t) / n_tasks``, p_t the mean over merge methods, which share their examples
    """
    variances = []
    for task, sizes in tasks.items():
        known = [merge.shared.tasks[task].mean for merge in row.merges.values() if task in merge.shared.tasks]
        if not known or not sizes.get(split):
            return None
        p = fmean(known)
        variances.append(p * (1 - p) / sizes[split])
    return math.sqrt(sum(variances)) / len(variances)


def in_words(
    regime: str, results: Mapping[str, Any], rows: Rows, comparisons: list[Comparison], split: str
) -> list[Finding]:
    """Return the verdict of one regime: a finding for each sharpness-aware arm."""
    here = [comparison for comparison in comparisons if comparison.regime == regime]
    if not here:
        return [
            Finding("Nothing to compare: it takes an arm with ascent and one without, and a common seed.")
        ]
    findings = []
    if split == "validation":
        findings.append(
            Finding(
                "The test split was not read: these are validation accuracies, on which coefficients (and "
                "perhaps steps and rho) were chosen, so they are optimistic."
            )
        )
    for arm in dict.fromkeys(comparison.arm for comparison in here):
        of_arm = [comparison for comparison in here if comparison.arm == arm]
        alone = any(comparison.difference.n == 1 for comparison in of_arm)
        conclusion = _one_seed(of_arm) if alone else _headline(of_arm)
        figures = (_figure(comparison, results["arms"]) for comparison in of_arm)
        findings.append(Finding(f"{arm}: {conclusion}", tuple(figures)))
    return findings


def _comparison(
    arm: ArmSummary, baseline: ArmSummary, tasks: Mapping[str, Any], split: str
) -> Comparison | None:
    if arm.merged is None or baseline.merged is None:
        return None
    difference, experts = arm.merged.minus(baseline.merged), arm.experts.minus(baseline.experts)
    if difference is None or experts is None:
        return None
    by_method = {
        name: merge.shared.absolute.minus(baseline.merges[name].shared.absolute)
        for name, merge in arm.merges.items()
        if name in baseline.merges
    }
    errors = binomial_error(arm, tasks, split), binomial_error(baseline, tasks, split)
    standard_error = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    common = difference.by_seed
    return Comparison(
        regime=arm.regime,
        arm=arm.arm,
        baseline=baseline.arm,
        arm_merged=fmean(arm.merged.by_seed[seed] for seed in common),
        baseline_merged=fmean(baseline.merged.by_seed[seed] for seed in common),
        difference=difference,
        by_method={name: statistic for name, statistic in by_method.items() if statistic is not None},
        experts=experts,
        standard_error=standard_error,
        outcome=_outcome(difference, standard_error),
    )


def _outcome(difference: Statistic, standard_error: float | None) -> str:
    if difference.interval is not None:
        low, high = difference.interval
    elif standard_error is not None:
        low, high = difference.mean - 2 * standard_error, difference.mean + 2 * standard_error
    else:
        return UNKNOWN
    if low <= 0 <= high:
        return NOISE
    words = (BETTER, WORSE) if difference.n > 1 else (AHEAD, BEHIND)
    return words[0] if low > 0 else words[1]


def _headline(comparisons: list[Comparison]) -> str:
    outcomes: dict[str, list[str]] = {}
    for comparison in comparisons:
        outcomes.setdefault(comparison.outcome, []).append(comparison.baseline)
    if len(outcomes) > 1:
        words = {BETTER: "better than", WORSE: "worse than", NOISE: "within the noise of"}
        parts = (f"{words[outcome]} {', '.join(names)}" for outcome, names in outcomes.items())
        return f"the merged model is {'; '.join(parts)}."
    every, any_ = ("every arm", "any arm") if len(comparisons) > 1 else ("the one arm", "the one arm")
    examples = " on these examples" if any(c.below_evaluation_error for c in comparisons) else ""
    return {
        BETTER: f"it helps{examples}: the merged model is better than that of {every} without ascent.",
        WORSE: f"it does not help{examples}: the merged model is worse than that of {every} without ascent.",
        NOISE: f"these runs do not show that it helps: no difference from {any_} without ascent is larger "
        "than the noise.",
    }[comparisons[0].outcome]


def _one_seed(comparisons: list[Comparison]) -> str:
    ahead = sum(comparison.difference.mean > 0 for comparison in comparisons)
    return (
        "one seed, so no spread can be given and nothing can be concluded; on this seed its merged model is "
        f"ahead of {ahead} of {len(comparisons)} arms without ascent."
    )


def _figure(comparison: Comparison, arms: Mapping[str, Any]) -> str:
    role = ROLES.get(arms[comparison.baseline].get("role", ""))
    difference, error = comparison.difference, comparison.standard_error
    if difference.interval is not None:
        spread = f"{difference.n} seeds, 95 % interval {interval(difference.interval)}"
        if comparison.outcome != NOISE and error is not None and comparison.below_evaluation_error:
            spread += (
                f"; yet less than two binomial standard errors of the evaluation, {100 * error:.1f} each"
            )
    elif error is not None:
        beyond = "less" if comparison.outcome == NOISE else "more"
        spread = f"{beyond} than two binomial standard errors of the evaluation, {100 * error:.1f} each"
    else:
        spread = "number of evaluated examples unknown, so no error can be given"
    return (
        f"Against {comparison.baseline}{f' ({role})' if role else ''}: {signed(difference.mean)} points, "
        f"{100 * comparison.arm_merged:.1f} against {100 * comparison.baseline_merged:.1f} ({spread})."
    )
