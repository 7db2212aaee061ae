"""Searches by libraries: each candidate is drawn where those before it were good."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.experiment.selection import Candidate, Trial, Validate
from saft.extras import require

__all__ = ["CmaEs", "Interval", "Tpe"]

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


@dataclass(frozen=True)
class CmaEs:
    r"""Draws generations from a normal distribution that moves to the better half, and takes its shape.

    .. math:: c \sim N(m, \sigma^2 C), \qquad m \leftarrow \sum_i w_i\, c_{(i)}

    For several numbers that depend on each other, such as a coefficient for each task. Equal seeds and scores
    give equal candidates, of three digits.

    Args:
        start: what is searched -> where the search begins; it is the first candidate. At least two.
        interval: that every number stays in.
        width: σ at the beginning.
        worth: trial -> what is maximized; one that is not a number counts as the worst.
        evaluations: how many candidates are tried.
        seed: of what is drawn.

    Raises:
        UserError: cmaes is not installed.

    Source:
        Hansen and Ostermeier 2001, "Completely Derandomized Self-Adaptation in Evolution Strategies", as the
        package cmaes has it, on which Optuna's sampler rests.
    """

    start: Candidate
    interval: Interval
    width: float
    worth: Callable[[Trial], float]
    evaluations: int
    seed: int = 0

    def __post_init__(self) -> None:
        require("cmaes", "weights")

    def trials(self, validate: Validate) -> list[Trial]:
        """Try the start, then generation after generation; the last one may be cut short."""
        import cmaes
        import numpy as np

        mean = np.array(list(self.start.values()), dtype=float)
        bounds = np.array([[self.interval.low, self.interval.high]] * len(mean))
        optimizer = cmaes.CMA(mean, self.width, bounds=bounds, seed=self.seed)
        trials = [Trial(dict(self.start), validate(self.start))]
        generation: list[tuple[Any, float]] = []
        while len(trials) < self.evaluations:
            drawn = optimizer.ask()
            candidate = {name: _to_digits(x) for name, x in zip(self.start, drawn, strict=True)}
            trials.append(Trial(candidate, validate(candidate)))
            worth = self.worth(trials[-1])
            generation.append((drawn, math.inf if math.isnan(worth) else -worth))
            if len(generation) == optimizer.population_size:
                optimizer.tell(generation)
                generation = []
        return trials


def _to_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _distribution(optuna: Any, values: Interval | Sequence[float]) -> Any:
    if isinstance(values, Interval):
        return optuna.distributions.FloatDistribution(values.low, values.high)
    return optuna.distributions.CategoricalDistribution(list(values))
