"""`saft suggest`: which method and which coefficient for these checkpoints, in a budget of evaluations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from saft.config import as_config
from saft.errors import Unfinished, UserError, collecting
from saft.experiment.halving import halving, merges_needed
from saft.experiment.paired import paired_gain
from saft.experiment.selection import Candidate, Trial, error_of_mean_normalized, mean_normalized
from saft.experiment.weight_search import PLACES, weight_search, weights_of
from saft.experiment.weighted_trunk import with_weights
from saft.files.staging import refuse_file
from saft.files.written_last import write_last
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.progress import Bar, bar, note, waiting
from saft.report.paired_gain import PairedGain
from saft.suggest_config import SuggestConfig
from saft.suggest_models import MergedModels
from saft.suggest_result import (
    SuggestResult,
    Tried,
    has_shares,
    in_plain_values,
    in_words,
    merge_file,
    without_share,
)
from saft.tasks import Score

__all__ = ["SuggestConfig", "SuggestResult", "Tried", "suggest"]


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
    config = as_config(config, SuggestConfig)
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
    # The experts, each on its own task; at the end again, with the best and what it is compared with.
    evaluations = config.budget + 1 + 4
    note(
        f"at most {config.budget} merged models on up to {(config.examples + 1) // 2} examples of "
        f"{len(models.bound)} tasks: about {max(models.seconds(evaluations, merges), 1):.0f} s"
    )
    with bar(total=evaluations) as progress:
        result = _searched(models, config, progress)
    problems: list[str] = []
    with collecting(problems):
        write_last(out, merge_file(result), result)
        result = dataclasses.replace(result, file=out)
    if config.trials is not None:
        with collecting(problems):
            write_last(config.trials, json.dumps(in_plain_values(result), indent=2) + "\n", result)
    if problems:
        raise Unfinished(*problems, finished=result)
    return result


def _searched(models: MergedModels, config: SuggestConfig, progress: Bar) -> SuggestResult:
    metrics, tried = models.metrics, list[Tried]()
    progress.stage("the experts")
    experts = {task: models.expert(task, "search") for task in models.bound}
    values = {task: score.value for task, score in experts.items() if has_shares(score)}
    if not values:
        raise UserError(
            "checkpoints: none scores above 0 on its own task, so that there is nothing that a merge could "
            "keep a share of; saft evaluate says what they score"
        )
    for sentence in without_share(experts):
        note(sentence)
    progress.advance(1)

    def evaluated(merge: MergeConfig) -> Tried:
        progress.stage(in_words(merge))
        scores = models.scores(merge, "search")
        counted = {task: scores[task] for task in values}
        mean = mean_normalized({task: score.value for task, score in counted.items()}, values, metrics)
        tried.append(Tried(merge, scores, mean, *error_of_mean_normalized(counted, values, metrics)))
        progress.advance(1)
        return tried[-1]

    def worth(name: str, coefficient: float) -> float:
        merge = models.merges[name]
        if len(METHODS.get(merge.method).scaling_grid) > 1:
            merge = dataclasses.replace(merge, scaling=coefficient)
        return evaluated(merge).worth

    kinds = {name: METHODS.get(merge.method) for name, merge in models.merges.items()}
    of_weights = 0 if config.weights == "equal" else config.budget // 2
    grids = {name: (kind.scaling, kind.scaling_grid) for name, kind in kinds.items()}
    halving(grids, worth, config.budget - of_weights)
    if of_weights:
        sums = [one for one in tried if one.merge.method == "task_arithmetic"]
        start = max(sums, key=_rank).merge
        tasks, places = list(models.bound), PLACES[config.weights]

        def validate(candidate: Candidate) -> dict[str, Score]:
            return evaluated(with_weights(start, weights_of(candidate, tasks))).scores

        def mean(trial: Trial) -> float:
            return mean_normalized({task: trial.values[task] for task in values}, values, metrics)

        assert start.scaling is not None
        weight_search(tasks, places, start.scaling, mean, of_weights, config.seed).trials(validate)
    tried.sort(key=_rank, reverse=True)
    progress.stage("how sure it is")
    return SuggestResult(
        tried,
        experts,
        metrics,
        _gains(models, tried, list(values), progress),
        sum(len(models.examples["confirmation"][task]) for task in values),
    )


def _gains(
    models: MergedModels, tried: list[Tried], tasks: Sequence[str], progress: Bar
) -> dict[str, PairedGain]:
    """Return the gain of the best over the best of the second method and the average, on fresh examples."""
    best, others = tried[0].merge, dict[str, MergeConfig]()
    for one in tried:
        kind, of_best = _kind(one.merge), _kind(best)
        if kind != of_best and (not others or kind in ("average", best.method)):
            others.setdefault(kind, one.merge)
    scores = {task: models.expert(task, "confirmation") for task in tasks}
    experts = {task: score.value for task, score in scores.items() if has_shares(score)}
    progress.advance(1)
    values = []
    for merge in (best, *others.values()):
        groups = models.by_group(merge) if experts else []
        values.append([{task: group[task] for task in experts} for group in groups])
        progress.advance(1)
    return {
        in_words(other): paired_gain(values[0], of_other, experts, models.metrics)
        for other, of_other in zip(others.values(), values[1:], strict=True)
    }


def _kind(merge: MergeConfig) -> str:
    """Return the method, and whether it has a weight for each task: of each kind the best is compared."""
    return f"{merge.method} with weights" if _has_weights(merge) else merge.method


def _has_weights(merge: MergeConfig) -> bool:
    return "weights" in merge.varying or "weights" in merge.parameters


def _rank(one: Tried) -> float:
    return -math.inf if math.isnan(one.worth) else one.worth
