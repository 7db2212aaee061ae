"""What `saft suggest` has tried, best first; its table, its sentences, and the merge file that it writes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from saft import config as configs
from saft.errors import abbreviated
from saft.experiment.selection import mean_normalized
from saft.merging.merge_config import MergeConfig
from saft.report.columns import Column, score_columns, stacked
from saft.report.paired_gain import PairedGain
from saft.report.results import plain
from saft.student_t import student_t
from saft.tasks import Metric, Score
from saft.written import as_number

__all__ = [
    "SuggestResult",
    "Tried",
    "has_shares",
    "in_plain_values",
    "in_words",
    "merge_file",
    "without_share",
]


@dataclass(frozen=True)
class Tried:
    """A merge that was evaluated.

    Args:
        merge: method, parameters and coefficient.
        scores: task -> score on the examples that were searched on.
        worth: mean over the tasks whose expert scores above 0 of the score in parts of the expert's.
        error: its standard error from the finite number of examples; None where it is not known.
        freedom: degrees of freedom of Student's t for that error.
    """

    merge: MergeConfig
    scores: dict[str, Score]
    worth: float
    error: float | None
    freedom: float = math.inf

    @property
    def half(self) -> float | None:
        """Half of the 95 % interval of the worth over the examples; None where it is not known."""
        return None if self.error is None else student_t(0.975, self.freedom) * self.error


@dataclass(frozen=True)
class SuggestResult:
    """Everything that was tried, and the merge that is suggested.

    Args:
        tried: best first.
        experts: task -> score of its own checkpoint on the examples that were searched on.
        metrics: task -> what its scores are.
        gains: method -> by how much the suggested merge is better than that method's best, on examples that
            nothing was chosen on: the second best method, and the average.
        examples: how many examples these are, of all tasks that count.
        file: the merge file; None where none is written.
    """

    tried: list[Tried]
    experts: dict[str, Score]
    metrics: dict[str, Metric]
    gains: dict[str, PairedGain]
    examples: int
    file: Path | None = None

    @property
    def best(self) -> Tried:
        """The merge that is suggested."""
        return self.tried[0]

    @property
    def sentences(self) -> list[str]:
        """What is suggested, and how sure it is."""
        said = [f"suggested: {in_words(self.best.merge)}", *without_share(self.experts)]
        for name, gain in self.gains.items():
            if gain.mean is None:
                said.append(
                    f"it is not compared with {name}: too few examples are left, or no checkpoint scores "
                    "above 0 on them"
                )
                continue
            said.append(
                f"it is {gain.in_words} {name}: {gain.written()} in % of the experts' scores, on "
                f"{self.examples} examples that nothing was chosen on"
            )
        return said

    def table(self) -> RenderableType:
        """Return what was tried, best first, and what is suggested."""
        own = {task: score.value for task, score in self.experts.items() if has_shares(score)}
        of_experts = as_number(100 * mean_normalized(own, own, self.metrics), 1)
        rows = {"experts": (Text(of_experts), Text("–"), self.experts)}
        for tried in self.tried:
            worth = as_number(100 * tried.worth, 1) if math.isfinite(tried.worth) else "–"
            half = "–" if tried.half is None else f"{100 * tried.half:.1f}"
            rows[in_words(tried.merge)] = Text(worth), Text(half), tried.scores
        columns = score_columns(self.metrics, {row: scores for row, (_, _, scores) in rows.items()})
        worths = Column("mean, % of the experts", {row: worth for row, (worth, _, _) in rows.items()})
        halves = Column("± 95 %", {row: half for row, (_, half, _) in rows.items()})
        tables = stacked("Merges that were tried, best first", "merge", list(rows), columns, [worths, halves])
        told = self.sentences
        if self.file is not None:
            told.append(f"written: {self.file}; saft merge {quote(str(self.file))} OUT")
        return Group(*tables, Text(), *map(Text, told))


def has_shares(expert: Score) -> bool:
    """Return whether a merge can be worth a share of what a task's own checkpoint scores.

    Args:
        expert: score of the checkpoint.
    """
    return expert.value > 0


def without_share(experts: Mapping[str, Score]) -> list[str]:
    """Return a sentence on the tasks that are left out of the mean, if any.

    Args:
        experts: task -> score of its own checkpoint.

    Example:
        >>> without_share({"a": Score(0.8, None, 9), "b": Score(0.0, None, 9)})
        ["the mean leaves out 'b': its own checkpoint scores no more than 0, and 0 has no shares"]
    """
    without = [task for task, score in experts.items() if not has_shares(score)]
    own = "its own checkpoint scores" if len(without) == 1 else "their own checkpoints score"
    told = f"the mean leaves out {abbreviated(without)}: {own} no more than 0, and 0 has no shares"
    return [told] if without else []


def in_words(merge: MergeConfig) -> str:
    """Return the method of a merge, with its parameters, coefficient or weights, where it has any.

    Example:
        >>> in_words(MergeConfig("ties", "base", ["a", "b"], {"density": 0.1}, scaling=0.9))
        'ties (density 0.1) at 0.9'
        >>> in_words(MergeConfig("ties", "base", ["a", "b"], {"weights": [1, 0.5]}, scaling=2))
        'ties, weights 1, 0.5 at 2'
    """
    weights = merge.varying.get("weights") or merge.parameters.get("weights")
    others = ", ".join(f"{name} {value}" for name, value in merge.parameters.items() if name != "weights")
    words = f"{merge.method} ({others})" if others else merge.method
    if weights:
        each = (" → ".join(f"{x:g}" for x in own) if isinstance(own, list) else f"{own:g}" for own in weights)
        words = f"{words}, weights {', '.join(each)}"
        if merge.method == "task_arithmetic" and merge.scaling == 1:  # they are the coefficients
            return words
    return words if merge.scaling is None else f"{words} at {merge.scaling:g}"


def merge_file(result: SuggestResult) -> str:
    """Return the suggested merge as a file of `saft merge`, with what speaks for it above.

    Args:
        result: of a search.
    """
    defaults = MergeConfig("", "", [])
    keys = {
        field.name: value
        for field in dataclasses.fields(MergeConfig)
        if (value := getattr(result.best.merge, field.name)) != getattr(defaults, field.name)
    }
    above = [f"saft suggest: the best of {len(result.tried)} merges that were tried", *result.sentences]
    return "".join(f"# {line}\n" for line in above) + configs.dump(keys)


def in_plain_values(result: SuggestResult) -> dict[str, Any]:
    """Return everything that was tried, as JSON holds it.

    Args:
        result: of a search.
    """

    def of(scores: Mapping[str, Score]) -> dict[str, Any]:
        return {task: dataclasses.asdict(score) for task, score in scores.items()}

    whole: dict[str, Any] = plain(
        {
            "tried": [
                {
                    "method": one.merge.method,
                    "parameters": one.merge.parameters,
                    "varying": one.merge.varying,
                    "scaling": one.merge.scaling,
                    "normalized": one.worth,
                    "standard_error": one.error,
                    "scores": of(one.scores),
                }
                for one in result.tried
            ],
            "experts": of(result.experts),
            "metrics": {task: dataclasses.asdict(metric) for task, metric in result.metrics.items()},
            "gains": {name: list(gain.by_group) for name, gain in result.gains.items()},
            "examples": result.examples,
            "left_out": [task for task, score in result.experts.items() if not has_shares(score)],
        }
    )
    return whole
