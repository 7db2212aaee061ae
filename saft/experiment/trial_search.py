"""Which trials of an arm are tried in a budget: round after round, where those before were good."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.experiment.arm_trials import ArmTrial, Value, in_random_order

__all__ = ["TrialSearch"]

FIRST = 4  # trials of the first round, drawn at random
NEXT = 2  # trials of every further round, which can be computed at a time
ASKED = 40  # draws for a round, after which what is missing is drawn at random


@dataclass(frozen=True)
class TrialSearch:
    """Draws combinations of values where the density of good ones over that of the others is highest.

    What a round draws follows from the seed and from what the trials before are worth, and from nothing else:
    an interrupted search, one in several processes, and one whose budget was raised go on as if they had been
    there from the beginning. No combination is drawn twice. Numbers of an option are searched in their order,
    by their place in it; other values have none.

    Args:
        trials: every combination of an arm's values, at least one.
        passes: name of a trial -> forward and backward passes of one expert.
        budget: passes of all trials together; the first draw that does not fit ends the search.
        seed: of what is drawn.
        higher_is_better: of what trials are worth.

    Example:
        >>> from saft.experiment.arm_trials import arm_trials
        >>> trials = arm_trials("a", {"choices": {"steps": [*range(1, 101)]}})
        >>> search, worths = TrialSearch(trials, {t.name: 10 for t in trials}, budget=200), {}
        >>> while drawn := search.next_round(worths):
        ...     worths |= {trial.name: -abs(trial.values["steps"] - 70) for trial in drawn}
        >>> len(worths), max(worths.values()) >= -3
        (20, True)

    Source:
        Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE), as Optuna has it, with its
        constant liar for those of a round. Differs: lists of values, without replacement; rounds of a fixed
        number, whoever computes them.
    """

    trials: Sequence[ArmTrial]
    passes: Mapping[str, float]
    budget: float
    seed: int = 0
    higher_is_better: bool = True

    def next_round(self, worths: Mapping[str, float]) -> list[ArmTrial]:
        """Return the trials to try after those that are known; none where the search is over.

        Args:
            worths: name of a trial -> what it is worth, of all rounds before, in the order of the draws; one
                that is not finite counts as the worst.
        """
        count = len(worths)
        is_cut = count < FIRST or (count - FIRST) % NEXT  # a round of which not all fitted the budget
        if (worths and is_cut) or count == len(self.trials):
            return []
        left = self.budget - sum(self.passes[name] for name in worths)
        fits = []
        for trial in self._sampled(worths) if worths else in_random_order(self.trials, self.seed)[:FIRST]:
            left -= self.passes[trial.name]
            if left < 0:
                break
            fits.append(trial)
        return fits

    def foreseen(self, tried: Collection[str]) -> list[ArmTrial]:
        """Return about as many further trials as the budget allows: those that a random draw would take.

        Args:
            tried: names of the trials that are drawn already.
        """
        left = self.budget - sum(self.passes[name] for name in tried)
        others = [trial for trial in in_random_order(self.trials, self.seed) if trial.name not in tried]
        left_after = itertools.accumulate((-self.passes[trial.name] for trial in others), initial=left)
        next(left_after)
        return [trial for trial, left in zip(others, left_after, strict=True) if left >= 0]

    def _sampled(self, worths: Mapping[str, float]) -> list[ArmTrial]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = (self.seed * 1009 + len(worths)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
        direction = "maximize" if self.higher_is_better else "minimize"
        study = optuna.create_study(direction=direction, sampler=sampler)
        kinds, places = self._space(optuna)
        worst = -sys.float_info.max if self.higher_is_better else sys.float_info.max
        for name, worth in worths.items():
            value = worth if math.isfinite(worth) else worst
            study.add_trial(optuna.trial.create_trial(params=places[name], distributions=kinds, value=value))
        by_place = {tuple(place.values()): name for name, place in places.items()}
        drawn: dict[str, None] = {}
        for _ in range(ASKED):  # a draw that was tried stays open, and so counts as a bad one
            name = by_place[tuple(study.ask(kinds).params[option] for option in kinds)]
            if name not in worths:
                drawn[name] = None
            if len(drawn) == NEXT:
                break
        drawn |= {t.name: None for t in in_random_order(self.trials, self.seed) if t.name not in worths}
        known = {trial.name: trial for trial in self.trials}
        return [known[name] for name in itertools.islice(drawn, NEXT)]

    def _space(self, optuna: Any) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
        """Return option -> distribution of the places of its values, and name of a trial -> its places."""
        kinds, order = dict[str, Any](), dict[str, dict[tuple[type, Value], int]]()
        for option in self.trials[0].values:
            values = list(dict.fromkeys((type(t.values[option]), t.values[option]) for t in self.trials))
            if all(kind in (int, float) for kind, _ in values):
                values.sort(key=lambda pair: float(pair[1] or 0))
                kinds[option] = optuna.distributions.IntDistribution(0, len(values) - 1)
            else:
                kinds[option] = optuna.distributions.CategoricalDistribution(list(range(len(values))))
            order[option] = {pair: place for place, pair in enumerate(values)}
        places = {
            trial.name: {o: order[o][type(value), value] for o, value in trial.values.items()}
            for trial in self.trials
        }
        return kinds, places
