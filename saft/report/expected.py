"""Published figures that a recipe names, beside those that came out: met, not met, or not run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Any, Literal

from saft.report.cell_result import CellResult
from saft.report.over_seeds import OverSeeds, finite_over_seeds
from saft.report.results import Results
from saft.tasks.metric import Score
from saft.written import as_number

__all__ = ["ExpectedFigure", "expected_figures"]

Outcome = Literal["met", "not met", "not run", "not comparable"]
_ROUND_OFF = 1e-9


@dataclass(frozen=True)
class ExpectedFigure:
    """A figure that should come out, and the one that did.

    Args:
        name: as the recipe calls it.
        value, tolerance: in the unit that tables print, such as percent; it may be off by the tolerance.
        source: where it was published.
        ours: over the seeds whose figures are finite, NaN where none is; None where it was not run.
        of: what it is a score of, in words.
        unit: of all these numbers, as in `Metric`.
        digits: decimals that the metric is printed with; as many as were published, if that is more.
        comparable: whether ours may be held against it, which a dry run's may not.

    Example:
        >>> ExpectedFigure("average", 66.5, 0.5, "docs", OverSeeds({0: 66.9})).outcome
        'met'
    """

    name: str
    value: float
    tolerance: float
    source: str
    ours: OverSeeds | None = None
    of: str = ""
    unit: str = "%"
    digits: int = 1
    comparable: bool = True

    @property
    def outcome(self) -> Outcome:
        """Whether ours, as it is printed, lies within the tolerance."""
        if self.ours is None:
            return "not run"
        if not self.comparable:
            return "not comparable"
        if not math.isfinite(self.ours.mean):
            return "not met"
        off = abs(round(self.ours.mean, self._decimals) - self.value)
        return "met" if off <= self.tolerance + _ROUND_OFF else "not met"

    @property
    def written(self) -> tuple[str, str]:
        """The expected figure with its tolerance, and ours over the seeds; a dash where there is none."""
        expected = f"{as_number(self.value, self._decimals)} ± {self.tolerance:g}"
        if self.ours is None or not math.isfinite(self.ours.mean):
            return expected, "–"
        return expected, self.ours.written(1.0, self._decimals)

    @property
    def _decimals(self) -> int:
        return max(self.digits, _decimals(self.value), _decimals(self.tolerance))


def expected_figures(results: Results) -> list[ExpectedFigure]:
    """Return the figures under `expected` of a run's config, in that order.

    Args:
        results: of the run; of several train sizes the first counts, and a figure is the mean over its tasks
            where it names none, for each seed. Tasks of several units have no mean.
    """
    return [_figure(results, name, keys) for name, keys in (results.config.get("expected") or {}).items()]


def _figure(results: Results, name: str, keys: Mapping[str, Any]) -> ExpectedFigure:
    known = results.protocol.tasks | results.protocol.held_out
    tasks = [keys["task"]] if keys.get("task") else list(results.protocol.tasks)
    metrics = [known[task].metric for task in tasks if task in known]
    arm = None if keys["of"] == "base" else keys.get("arm") or next(iter(results.arms))
    ours = {}
    if len({metric.unit for metric in metrics}) == 1:
        for seed, scores in _by_seed(results, keys["of"], arm):
            if scores.keys() >= set(tasks):
                values = zip(metrics, tasks, strict=True)
                ours[seed] = fmean(metric.scale * scores[task] for metric, task in values)
    words = "the pretrained model" if arm is None else f"{keys['of']} of {arm}"
    return ExpectedFigure(
        name,
        keys["value"],
        keys["tolerance"],
        keys["source"],
        finite_over_seeds(ours) or (OverSeeds({0: math.nan}) if ours else None),
        f"{words}, {keys['task']}" if keys.get("task") else words,
        metrics[0].unit if metrics else "",
        max((metric.digits for metric in metrics), default=1),
        keys.get("comparable", True),
    )


def _by_seed(results: Results, of: str, arm: str | None) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each seed with task -> test score, of tasks that are held out too, as far as they are known."""
    if arm is None:
        yield 0, _known({task: base.test for task, base in results.base.items()})
        return
    size = next(iter(results.protocol.train_sizes))
    for cell in results.cells:
        if (cell.arm, cell.train_size) == (arm, size):
            yield cell.seed, _of_experts(cell) if of == "experts" else _of_merge(cell, of)


def _of_experts(cell: CellResult) -> dict[str, float]:
    """Return task -> score of its own expert, or the mean over all experts where it is held out."""
    held: dict[str, list[float]] = {}
    for expert in cell.experts.values():
        for task, score in _known({task: each.test for task, each in expert.held_out.items()}).items():
            held.setdefault(task, []).append(score)
    own = _known({task: expert.test for task, expert in cell.experts.items()})
    return {task: fmean(values) for task, values in held.items()} | own


def _of_merge(cell: CellResult, method: str) -> dict[str, float]:
    merge = cell.merges.get(method)
    return {} if merge is None else _known({**merge.shared.held_out, **(merge.shared.test or {})})


def _known(scores: Mapping[str, Score | None]) -> dict[str, float]:
    return {task: score.value for task, score in scores.items() if score is not None}


def _decimals(value: float) -> int:
    """Return the decimals that a number is written with."""
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
