"""`saft suggest`: which method and which coefficient for these checkpoints, in a budget of evaluations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from saft import config as configs
from saft.errors import UserError
from saft.experiment.halving import halving, merges_needed
from saft.experiment.paired import PairedGain, paired_gain
from saft.experiment.selection import error_of_mean_normalized, mean_normalized
from saft.files.staging import refuse_file, write_text
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.progress import Bar, bar, note, waiting
from saft.report.results import plain
from saft.suggest_config import SuggestConfig
from saft.suggest_models import MergedModels
from saft.tasks import Metric, Score

__all__ = ["SuggestConfig", "SuggestResult", "Tried", "suggest"]


@dataclass(frozen=True)
class Tried:
    """A merge that was evaluated.

    Args:
        merge: method, parameters and coefficient.
        scores: task -> score on the examples that were searched on.
        worth: mean over the tasks of the score in parts of the expert's.
        error: its standard error from the finite number of examples; None where it is not known.
    """

    merge: MergeConfig
    scores: dict[str, Score]
    worth: float
    error: float | None


@dataclass(frozen=True)
class SuggestResult:
    """Everything that was tried, and the merge that is suggested.

    Args:
        tried: best first.
        experts: task -> score of its own checkpoint on the examples that were searched on.
        metrics: task -> what its scores are.
        gains: method -> by how much the suggested merge is better than that method's best, on examples that
            nothing was chosen on: the second best method, and the average.
        examples: how many examples these are, of all tasks together.
        file: the merge file that was written.
    """

    tried: list[Tried]
    experts: dict[str, Score]
    metrics: dict[str, Metric]
    gains: dict[str, PairedGain]
    examples: int
    file: Path

    @property
    def best(self) -> Tried:
        """The merge that is suggested."""
        return self.tried[0]

    @property
    def sentences(self) -> list[str]:
        """What is suggested, and how sure it is."""
        said = [f"suggested: {in_words(self.best.merge)}"]
        for name, gain in self.gains.items():
            if gain.mean is None:
                said.append(f"too few examples are left to compare it with {name}")
                continue
            how = (
                "within the noise of"
                if not gain.is_sure
                else "better than"
                if gain.mean > 0
                else "worse than"
            )
            said.append(
                f"it is {how} {name}: {gain.written()} in % of the experts' scores, on {self.examples} "
                "examples that nothing was chosen on"
            )
        return said

    def table(self) -> RenderableType:
        """Return what was tried, best first, and what is suggested."""
        heads = [f"{name}\n{m.name} {m.unit}".rstrip() for name, m in self.metrics.items()]
        table = Table("merge", "mean, % of\nthe experts", "± 95 %", *heads)
        table.add_row("experts", "100.0", "", *self._cells(self.experts))
        for tried in self.tried:
            half = "" if tried.error is None else f"{200 * tried.error:.1f}"
            worth = f"{100 * tried.worth:.1f}" if math.isfinite(tried.worth) else "–"
            table.add_row(in_words(tried.merge), worth, half, *self._cells(tried.scores))
        return Group(table, *self.sentences, f"written: {self.file}; saft merge {self.file} OUT")

    def _cells(self, scores: Mapping[str, Score]) -> list[str]:
        return [metric.format(scores[task].value) for task, metric in self.metrics.items()]


def suggest(config: SuggestConfig, overwrite: bool = False) -> SuggestResult:
    r"""Find the method and the coefficient that merge checkpoints best, and write them as a merge file.

    .. math:: \max_{m, \lambda} \frac1K \sum_t \frac{a_t(\theta_0 + \lambda\, m(\tau_1 \dots \tau_K))}
       {a_t(\theta_t)}

    with the scores a on half of the validation examples; on the other half the best is compared with the
    best of the second method and with the average, paired, since the best of many is too good by chance.

    Args:
        config: see `SuggestConfig`.
        overwrite: replace the merge file if it is there.

    Returns:
        What was tried and what is suggested, which is written to `config.out`.

    Raises:
        UserError: the checkpoints do not fit each other, the base or a method, or one has no task.

    Example:
        >>> suggest(SuggestConfig(base="./no-folder", checkpoints=["./a", "./b"]))
        Traceback (most recent call last):
        saft.errors.UserError: checkpoints.a: there is no './a' ...
    """
    out = Path(config.out)
    refuse_file(out)
    if out.exists() and not overwrite:
        raise UserError(f"out: {out} is there already; give another name, or --overwrite")
    if config.trials is not None:
        refuse_file(Path(config.trials))
    config.check_options()
    with waiting("loading models and data ..."):
        models = MergedModels.of(config)
    merges = merges_needed(len(models.merges))
    # The experts, each on its own task; at the end again, with the best, the second method and the average.
    evaluations = config.budget + 1 + 4
    note(
        f"at most {config.budget} merged models on up to {(config.examples + 1) // 2} examples of "
        f"{len(models.bound)} tasks: about {max(models.seconds(evaluations, merges), 1):.0f} s"
    )
    with bar(total=evaluations) as progress:
        result = _searched(models, config, progress)
    if config.trials is not None:
        write_text(Path(config.trials), json.dumps(_plain(result), indent=2) + "\n")
    write_text(out, _merge_file(result))
    return result


def in_words(merge: MergeConfig) -> str:
    """Return the method of a merge and its coefficient, where it has one.

    Example:
        >>> in_words(MergeConfig("ties", "base", ["a", "b"], scaling=0.9))
        'ties at 0.9'
    """
    return merge.method if merge.scaling is None else f"{merge.method} at {merge.scaling:g}"


def _searched(models: MergedModels, config: SuggestConfig, progress: Bar) -> SuggestResult:
    metrics, tried = models.metrics, list[Tried]()
    progress.stage("the experts")
    experts = {task: models.expert(task, "search") for task in models.bound}
    values = {task: score.value for task, score in experts.items()}
    progress.advance(1)

    def worth(method: str, coefficient: float) -> float:
        merge = models.merges[method]
        if len(METHODS.get(method).scaling_grid) > 1:
            merge = dataclasses.replace(merge, scaling=coefficient)
        progress.stage(in_words(merge))
        scores = models.scores(merge, "search")
        mean = mean_normalized({task: score.value for task, score in scores.items()}, values, metrics)
        tried.append(Tried(merge, scores, mean, error_of_mean_normalized(scores, values, metrics)))
        progress.advance(1)
        return mean

    kinds = {name: METHODS.get(name) for name in models.merges}
    halving({name: (kind.scaling, kind.scaling_grid) for name, kind in kinds.items()}, worth, config.budget)
    tried.sort(key=lambda one: math.inf if math.isnan(one.worth) else -one.worth)
    progress.stage("how sure it is")
    return SuggestResult(
        tried,
        experts,
        metrics,
        _gains(models, tried, progress),
        sum(map(len, models.examples["confirmation"].values())),
        Path(config.out),
    )


def _gains(models: MergedModels, tried: list[Tried], progress: Bar) -> dict[str, PairedGain]:
    """Return the gain of the best over the best of the second method and the average, on fresh examples."""
    best, others = tried[0].merge, dict[str, MergeConfig]()
    for one in tried:
        if one.merge.method != best.method and (not others or one.merge.method == "average"):
            others.setdefault(one.merge.method, one.merge)
    experts = {task: models.expert(task, "confirmation").value for task in models.bound}
    progress.advance(1)
    values = []
    for merge in (best, *others.values()):
        values.append(models.by_group(merge))
        progress.advance(1)
    return {
        in_words(other): paired_gain(values[0], of_other, experts, models.metrics)
        for other, of_other in zip(others.values(), values[1:], strict=True)
    }


def _merge_file(result: SuggestResult) -> str:
    """Return the suggested merge as a file of `saft merge`, with what speaks for it above."""
    defaults = MergeConfig("", "", [])
    keys = {
        field.name: value
        for field in dataclasses.fields(MergeConfig)
        if (value := getattr(result.best.merge, field.name)) != getattr(defaults, field.name)
    }
    above = [f"saft suggest: the best of {len(result.tried)} merges that were tried", *result.sentences]
    return "".join(f"# {line}\n" for line in above) + configs.dump(keys)


def _plain(result: SuggestResult) -> dict[str, Any]:
    def of(scores: Mapping[str, Score]) -> dict[str, Any]:
        return {task: dataclasses.asdict(score) for task, score in scores.items()}

    whole: dict[str, Any] = plain(
        {
            "tried": [
                {
                    "method": one.merge.method,
                    "parameters": one.merge.parameters,
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
        }
    )
    return whole
