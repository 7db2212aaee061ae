"""One model in memory that becomes any merge of some checkpoints, and its scores on their tasks."""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from saft.checkpoint_tasks import task_of
from saft.errors import UserError, collecting
from saft.experiment.paired import groups_of
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.weighted_trunk import WeightedTrunk, Weights
from saft.files.locations import by_name
from saft.files.locations import folder as local_folder
from saft.merging import time_estimate
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.notes import identical_notes
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.model_config import Precision
from saft.progress import note
from saft.suggest_config import SuggestConfig
from saft.tasks import BoundTask, Examples, Limits, Metric, Score, check_one_trunk
from saft.training.precision import computing

__all__ = ["Half", "MergedModels"]

Half = Literal["search", "confirmation"]


class MergedModels:
    """Checkpoints that were checked, with their tasks, of which any merge can be scored.

    Args:
        folders: task -> checkpoint folder.
        bound: task -> task of the checkpoint.
        examples: task -> its validation examples, at least two.
        merges: method, with what was chosen of its parameters -> its merge of the checkpoints, without a
            coefficient.
        plans: the same, checked.
        batch_size: examples of a forward pass.
        precision: of the scores; None for the usual one of the device.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        bound: Mapping[str, BoundTask],
        examples: Mapping[str, Examples],
        merges: Mapping[str, MergeConfig],
        plans: Mapping[str, Plan],
        batch_size: int,
        precision: Precision | None = None,
    ) -> None:
        self.folders, self.bound, self.merges, self.plans = folders, bound, merges, plans
        self.batch_size, self.precision = batch_size, precision
        halves: list[Half] = ["search", "confirmation"]
        self.examples: dict[Half, dict[str, Examples]] = {
            half: {task: some.only(range(place, len(some), 2)) for task, some in examples.items()}
            for place, half in enumerate(halves)
        }
        base = next(iter(plans.values())).base.location
        self._trunk = ScaledTrunk(next(iter(bound.values())).load_trunk(base), {})
        self._at: Plan | None = None

    @classmethod
    def of(cls, config: SuggestConfig) -> MergedModels:
        """Check everything, read the examples, and load one trunk.

        Args:
            config: what the user asked for.

        Raises:
            UserError: a checkpoint has no task, or too few examples, or does not fit the others or a method.
        """
        paths = by_name(config.checkpoints)
        folders = {name: local_folder(path, f"checkpoints.{name}") for name, path in paths.items()}
        merges = {
            name: MergeConfig(
                method, config.base, paths, parameters, exclude=config.exclude, seed=config.seed
            )
            for name, (method, parameters) in config.variants.items()
        }
        plans = _checked(merges)
        for text in identical_notes(next(iter(plans.values()))):
            note(text)
        bound = {name: task_of(name, folder, config.tasks, config.device) for name, folder in folders.items()}
        check_one_trunk({"tasks": bound})
        limits = Limits(train=0, validation=config.examples, test=0)
        examples = {name: task.examples(limits).validation for name, task in bound.items()}
        for name, some in examples.items():
            if len(some) < 2:
                raise UserError(
                    f"tasks.{name}: too few validation examples, {len(some)}: it takes one to search on, and "
                    "one to confirm; hold out more, by a larger `validation_fraction`"
                )
        return cls(folders, bound, examples, merges, plans, config.batch_size, config.precision)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Task -> what its scores are."""
        return {name: task.metric for name, task in self.bound.items()}

    def expert(self, task: str, half: Half) -> Score:
        """Return the score of a task's own checkpoint.

        Args:
            task: name of the task.
            half: the examples.
        """
        merge = next(iter(self.merges.values()))
        own = {task: merge.by_task()[task]}
        alone = dataclasses.replace(merge, method="average", models=own, parameters={})
        self._move(alone)
        return self._score(task, self.examples[half][task])

    def scores(self, merge: MergeConfig, half: Half) -> dict[str, Score]:
        """Return task -> score of a merge.

        Args:
            merge: one of `merges`, with a coefficient or its default.
            half: the examples.
        """
        self._move(merge)
        return {task: self._score(task, some) for task, some in self.examples[half].items()}

    def by_group(self, merge: MergeConfig) -> list[dict[str, float]]:
        """Return, for each group of the examples that confirm, task -> value of a merge.

        Args:
            merge: as for `scores`.
        """
        self._move(merge)
        return [
            {task: self._score(task, some).value for task, some in group.items()}
            for group in groups_of(self.examples["confirmation"])
        ]

    def seconds(self, evaluations: int, merges: int) -> float:
        """Return about how long a search takes, of one expert that is scored and a trial of each merge.

        Args:
            evaluations: merged models that are scored on the examples of a half.
            merges: merged vectors that are made.
        """
        first = next(iter(self.bound))
        begin = time.perf_counter()
        self.expert(first, "search")
        examples = self.examples["search"]
        a_pass = (time.perf_counter() - begin) / len(examples[first]) * sum(map(len, examples.values()))
        return a_pass * evaluations + merges * max(map(time_estimate.seconds, self.plans.values()))

    def _move(self, merge: MergeConfig) -> None:
        """Set the trunk to a merge; its vector is merged anew only where something but λ differs."""
        if weights := _weights(merge):
            self._at = None
            self._weighted.by(weights)
            return
        unscaled = dataclasses.replace(merge, scaling=None)
        if self._at is None or self._at.config != unscaled:
            self._at = None  # in case that the merge is interrupted
            plan = check(unscaled)
            self._trunk.take(dict(engine.stream(plan)))
            self._at = plan
        self._trunk.by(self._at.scaling if merge.scaling is None else merge.scaling)

    @functools.cached_property
    def _weighted(self) -> WeightedTrunk:
        return WeightedTrunk(self._trunk, next(iter(self.plans.values())))

    def _score(self, task: str, examples: Examples) -> Score:
        bound = self.bound[task]
        model = bound.model(self._trunk.trunk, head_from=self.folders[task])
        with computing(self.precision, bound.device):
            return bound.score(model, examples, self.batch_size)


def _checked(merges: Mapping[str, MergeConfig]) -> dict[str, Plan]:
    """Return the plan of each merge; what is wrong is told once, by the key of this verb's config."""
    plans, problems = dict[str, Plan](), list[str]()
    for method, merge in merges.items():
        with collecting(problems):
            plans[method] = check(merge)
    if problems:
        raise UserError(*dict.fromkeys(re.sub(r"^models\b", "checkpoints", text) for text in problems))
    return plans


def _weights(merge: MergeConfig) -> Weights:
    """Return the weights of a sum of task vectors that has no other coefficient; empty of another merge."""
    if merge.method != "task_arithmetic" or merge.scaling != 1:
        return {}
    settings = merge.varying.get("weights") or [[own] for own in merge.parameters.get("weights", ())]
    return dict(zip(merge.by_task(), settings, strict=True)) if len(settings) == len(merge.models) else {}
