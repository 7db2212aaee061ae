"""Which arms of an experiment are plain: the baselines of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from saft.report.results import ArmFacts

__all__ = ["plain_arms"]

ADDED = {"penalty", "averaging", "start"}
AS_IT_COMES = (None, None)  # AdamW, on all weights


def plain_arms(arms: Mapping[str, ArmFacts]) -> list[str]:
    """Return the arms that add nothing for the merge's sake: no ascent, penalty, average or merged start.

    What is trained, and by which optimizer, must be the usual of this experiment: what most of its arms have
    (of two that as many have: AdamW on all weights, else the first). So an experiment that is wholly LoRA has
    its baseline, and an arm that differs from the others in nothing but LoRA is compared with it. Experts
    that are given are no baseline: how they were trained is not known.

    Args:
        arms: arm -> what it is, all of an experiment at one train size.

    Example:
        >>> adamw, sgd = (ArmFacts("", None, None, 10, 10, extras=of) for of in ({}, {"optimizer": "SGD"}))
        >>> plain_arms({"adamw": adamw, "sgd": sgd, "sam": ArmFacts("", "sam", 0.05, 10, 20)})
        ['adamw']
    """
    bare = {
        arm: facts
        for arm, facts in arms.items()
        if not (facts.is_given or facts.perturbation or facts.extras.keys() & ADDED)
    }
    counts = Counter(_way(facts) for facts in arms.values() if not facts.is_given)
    ways = dict.fromkeys(map(_way, bare.values()))
    usual = max(ways, key=lambda way: (counts[way], way == AS_IT_COMES), default=AS_IT_COMES)
    return [arm for arm, facts in bare.items() if _way(facts) == usual]


def _way(facts: ArmFacts) -> tuple[str | None, str | None]:
    """Return what is trained and by whom, in words; None where it is as it comes."""
    trained = facts.extras.get("parametrization")
    return None if trained == "full" else trained, facts.extras.get("optimizer")
