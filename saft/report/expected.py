"""Published figures that a recipe names, beside those that came out: met, not met, or not run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from saft.report.cell_result import CellResult, MergeFigures
from saft.report.results import Results
from saft.tasks.metric import Score
from saft.written import as_number

__all__ = ["ExpectedFigure", "expected_figures"]


@dataclass(frozen=True)
class ExpectedFigure:
    """A figure that should come out, and the one that did.

    Args:
        name: as the recipe calls it.
        value, tolerance: in the unit that tables print, such as percent; it may be off by the tolerance.
        source: where it was published.
        ours: None where it was not run.
        digits: printed decimals.

    Example:
        >>> ExpectedFigure("average", value=66.5, tolerance=0.5, source="docs", ours=66.9).outcome
        'met'
    """

    name: str
    value: float
    tolerance: float
    source: str
    ours: float | None = None
    digits: int = 1

    @property
    def outcome(self) -> Literal["met", "not met", "not run"]:
        """Whether ours lies within the tolerance."""
        if self.ours is None or not math.isfinite(self.ours):
            return "not run" if self.ours is None else "not met"
        return "met" if abs(self.ours - self.value) <= self.tolerance else "not met"

    @property
    def written(self) -> tuple[str, str]:
        """The expected figure with its tolerance, and ours; a dash where there is none."""
        ours = "–" if self.ours is None else as_number(self.ours, self.digits)
        return f"{as_number(self.value, self.digits)} ± {self.tolerance:g}", ours


def expected_figures(results: Results) -> list[ExpectedFigure]:
    """Return the figures under `expected` of a run's config, in that order.

    Args:
        results: of the run; of several train sizes the first counts, and a figure is the mean over its seeds
            and, where it names no task, its tasks.
    """
    return [_figure(results, name, keys) for name, keys in (results.config.get("expected") or {}).items()]


def _figure(results: Results, name: str, keys: dict[str, Any]) -> ExpectedFigure:
    tasks = [keys["task"]] if keys.get("task") else list(results.protocol.tasks)
    values, known = [], results.protocol.tasks | results.protocol.held_out
    for task in tasks:
        if (value := _ours(results, keys, task)) is None:
            break
        values.append(known[task].metric.scale * value)
    first = next((known[task].metric for task in tasks if task in known), None)
    return ExpectedFigure(
        name,
        keys["value"],
        keys["tolerance"],
        keys["source"],
        fmean(values) if values and len(values) == len(tasks) else None,
        1 if first is None else first.digits,
    )


def _ours(results: Results, keys: dict[str, Any], task: str) -> float | None:
    """Return the mean over seeds of one task's figure on the test split; None where it is not known."""
    known = results.protocol.tasks | results.protocol.held_out
    if task not in known or not results.protocol.tests:
        return None
    if keys["of"] == "base":
        return _mean([results.base[task].on("test")] if task in results.base else [])
    arm = keys.get("arm") or next(iter(results.arms))
    size = next(iter(results.protocol.train_sizes))
    cells = [cell for cell in results.cells if (cell.arm, cell.train_size) == (arm, size)]
    if task in results.protocol.held_out:
        return _mean(score for cell in cells for score in _held_out(cell, keys, task))
    return _mean(_of_cell(cell, keys, task) for cell in cells)


def _of_cell(cell: CellResult, keys: dict[str, Any], task: str) -> Score | None:
    if keys["of"] == "experts":
        return cell.experts[task].test if task in cell.experts else None
    merge: MergeFigures | None = cell.merges.get(keys["of"])
    return None if merge is None or merge.shared.test is None else merge.shared.test.get(task)


def _held_out(cell: CellResult, keys: dict[str, Any], task: str) -> Iterator[Score | None]:
    """Yield the scores on a task that is held out: of every expert, or of a merge."""
    if keys["of"] == "experts":
        yield from (expert.held_out[task].test for expert in cell.experts.values() if task in expert.held_out)
    elif keys["of"] in cell.merges:
        yield cell.merges[keys["of"]].shared.held_out.get(task)


def _mean(scores: Iterable[Score | None]) -> float | None:
    known = [score.value for score in scores if score is not None]
    return fmean(known) if known else None
