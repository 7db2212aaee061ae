"""A search by a library: each candidate is drawn where those before it were good."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.experiment.selection import Trial, Validate
from saft.extras import require

__all__ = ["Interval", "Tpe"]

STARTUP = 5  # candidates that TPE draws at random before it looks at those before


@dataclass(frozen=True)
class Interval:
    """Every number between two ends.

    Args:
        low: the lower end.
        high: the upper end, above it.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Tpe:
    """Draws each candidate where the density of good ones over that of the others is highest (Optuna).

    Equal seeds and scores give equal candidates; those of an interval have three digits.

    Args:
        values: what is searched -> an interval, or a list of values.
        worth: trial -> what is maximized; one that is not finite counts as the worst.
        evaluations: how many candidates are tried.
        seed: of what is drawn.

    Raises:
        UserError: Optuna is not installed.

    Example:
        >>> from saft.tasks.metric import Score
        >>> search = Tpe({"scaling": Interval(0.0, 2.0)}, lambda trial: trial.values["a"], 20)
        >>> trials = search.trials(lambda c: {"a": Score(1 - (c["scaling"] - 0.7) ** 2, None, 5)})
        >>> len(trials), max(trial.values["a"] for trial in trials) > 0.99
        (20, True)

    Source:
        Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", as Optuna has it.
    """

    values: Mapping[str, Interval | Sequence[float]]
    worth: Callable[[Trial], float]
    evaluations: int
    seed: int = 0

    def __post_init__(self) -> None:
        require("optuna", "search: tpe")

    def trials(self, validate: Validate) -> list[Trial]:
        """Ask, validate and tell until the evaluations are used up; what is drawn twice counts twice."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=STARTUP)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {name: _distribution(optuna, values) for name, values in self.values.items()}
        trials: list[Trial] = []
        for _ in range(self.evaluations):
            asked = study.ask(distributions)
            drawn = {name: asked.params[name] for name in self.values}
            candidate = {
                name: _to_digits(value) if isinstance(self.values[name], Interval) else value
                for name, value in drawn.items()
            }
            trials.append(Trial(candidate, validate(candidate)))
            worth = self.worth(trials[-1])
            study.tell(asked, worth if math.isfinite(worth) else -sys.float_info.max)
        return trials


def _to_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _distribution(optuna: Any, values: Interval | Sequence[float]) -> Any:
    if isinstance(values, Interval):
        return optuna.distributions.FloatDistribution(values.low, values.high)
    return optuna.distributions.CategoricalDistribution(list(values))
