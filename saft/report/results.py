"""What an experiment found: `results.json` as a type, which `saft run` writes and the report reads."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from saft import config as configs
from saft.errors import UserError
from saft.interference.quantity import Quantity
from saft.report.cell_result import BaseResult, CellResult, FailedCell, Number
from saft.tasks.metric import Metric

__all__ = [
    "FORMAT",
    "ArmFacts",
    "ArmSearch",
    "PairedError",
    "Protocol",
    "Results",
    "TaskFacts",
    "TrialFacts",
    "from_json",
    "plain",
    "to_json",
]

FORMAT = 2


@dataclass(frozen=True)
class TaskFacts:
    """What a reader needs to know of a task before any figure of it.

    Args:
        kind: the task kind.
        metric: what its scores are.
        train: train size -> training examples.
        validation: validation examples.
        test: test examples; None where the test split was not read.
        labels: number of classes; None where there are none.
        facts: what else the task tells of itself, by name.
    """

    kind: str
    metric: Metric
    train: dict[str, int]
    validation: int
    test: int | None = None
    labels: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """What was read of the data, and how.

    Args:
        tasks: task -> its facts.
        seeds: seeds of the grid, distinct.
        train_sizes: name -> training examples of each task; None is all of them.
        coefficient: a sentence on how the scaling coefficient was chosen.
        test_reads: a sentence on how often the test split was read, and when.
        tests: whether the test split was read.
        held_out: name -> facts of each task that models are scored on, and none is trained on or chosen by.
    """

    tasks: dict[str, TaskFacts]
    seeds: list[int]
    train_sizes: dict[str, int | None]
    coefficient: str
    test_reads: str
    tests: bool
    held_out: dict[str, TaskFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmFacts:
    """One way to fine-tune. What two arms are to each other is computed where they are compared.

    Args:
        description: in the user's words.
        perturbation: name of the perturbation; None for an arm without ascent.
        rho: radius of its ascent.
        steps: optimizer steps of one expert; None of experts that are given, and were trained elsewhere.
        select_steps: numbers of steps,
            one of which is chosen on validation data; empty where there is no choice.
        passes: forward and backward passes that `steps` steps take; None likewise.
        extras: what else tells this arm from the others, by name.
    """

    description: str
    perturbation: str | None
    rho: float | None
    steps: int | None
    passes: float | None
    select_steps: list[int] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def is_given(self) -> bool:
        """Whether the experts were given: they have no seed, and how they were trained is not known."""
        return self.passes is None


@dataclass(frozen=True)
class TrialFacts:
    """One trial of an arm with `choices`.

    Args:
        values: option of the training, dotted within a mapping -> its value.
        facts: how it trains.
        worth: seed -> validation score of its merged models with the shared coefficient, mean over tasks and
            merge methods; NaN where a training diverged.
    """

    values: dict[str, str | bool | int | float | None]
    facts: ArmFacts
    worth: dict[int, Number]

    @property
    def mean(self) -> float:
        """The worth, mean over the seeds: what trials are chosen by."""
        return fmean(self.worth.values())


@dataclass(frozen=True)
class ArmSearch:
    """What was tried of an arm with `choices`, and what was chosen.

    Args:
        train_size, arm: of which.
        trials: name -> trial.
        chosen: name of the one that is reported as the arm.
        combinations: of the values, of which the trials are all, or those that were drawn in a budget.
        metric: what the worths are; None where the tasks have several metrics: shares of the scores of the
            best experts of all trials.
    """

    train_size: str
    arm: str
    trials: dict[str, TrialFacts]
    chosen: str
    combinations: int
    metric: Metric | None

    @property
    def passes(self) -> float:
        """Forward and backward passes of one expert of every trial together."""
        return sum(trial.facts.passes or 0.0 for trial in self.trials.values())


@dataclass(frozen=True)
class PairedError:
    """What the finite number of test examples leaves open of a difference between two arms.

    Args:
        train_size, arm, baseline: of which.
        metric: name of that of the tasks.
        methods: merge methods whose differences, with the shared coefficient, are averaged.
        standard_error: of the mean over methods, tasks and seeds, the two arms paired example by example.
        freedom: degrees of freedom of Student's t, which says how many errors an interval reaches; not finite
            where it is that of many examples, and of results of earlier versions.
    """

    train_size: str
    arm: str
    baseline: str
    metric: str
    methods: list[str]
    standard_error: Number
    freedom: Number = math.inf


@dataclass(frozen=True)
class Results:
    """A whole experiment, or as much of it as is there.

    Args:
        versions: library -> version, saft's own among them.
        device: what the models ran on.
        config: the resolved config, plain values.
        protocol: what was read of the data, and how.
        arms: arm -> how it trains; of one with `choices`, as it was chosen at the first train size.
        base: task -> the pretrained model's scores, also of tasks that are held out.
        cells: in the order of the grid; an unfinished grid has fewer.
        quantities: what the measured numbers of the cells are, by name.
        arm_searches: of each arm with `choices`, at each train size.
        paired_errors: of the differences between merged models of two arms, where each example's part in
            their scores is known.
        failed: cells that are missing since they could not be computed.
        format: version of this shape.
    """

    versions: dict[str, str]
    device: str
    config: dict[str, Any]
    protocol: Protocol
    arms: dict[str, ArmFacts]
    base: dict[str, BaseResult]
    cells: list[CellResult]
    quantities: dict[str, Quantity] = field(default_factory=dict)
    arm_searches: list[ArmSearch] = field(default_factory=list)
    paired_errors: list[PairedError] = field(default_factory=list)
    failed: list[FailedCell] = field(default_factory=list)
    format: int = FORMAT

    def __post_init__(self) -> None:
        problems = sorted(set(self._problems()))
        if problems:
            raise ValueError("; ".join(problems))

    def facts(self, train_size: str, arm: str) -> ArmFacts:
        """Return how an arm trains at one train size: of one with `choices`, the trial that was chosen."""
        for search in self.arm_searches:
            if (search.train_size, search.arm) == (train_size, arm):
                return search.trials[search.chosen].facts
        return self.arms[arm]

    def _problems(self) -> Iterator[str]:
        """Yield what would make a table say something else than it means."""
        if len(set(self.protocol.seeds)) < len(self.protocol.seeds):
            yield f"protocol.seeds: a seed appears twice: {self.protocol.seeds}"
        seen = set()
        for cell in self.cells:
            key = cell.train_size, cell.arm, cell.seed
            place = f"cells: {cell.train_size}, {cell.arm}, seed {cell.seed}"
            if key in seen:
                yield f"{place}: appears twice"
            seen.add(key)
            if cell.train_size not in self.protocol.train_sizes:
                yield f"{place}: protocol.train_sizes has no '{cell.train_size}'"
            if cell.arm not in self.arms:
                yield f"{place}: arms has no '{cell.arm}'"
            tasks, held_out = set(self.protocol.tasks), self.protocol.held_out
            problems = cell.problems(tasks, self.protocol.tests, self.quantities, held_out)
            yield from (f"{place}: {problem}" for problem in problems)
        if both := sorted(self.protocol.tasks.keys() & self.protocol.held_out.keys()):
            yield f"protocol.held_out: protocol.tasks has {', '.join(both)} too"
        for search in self.arm_searches:
            place = f"arm_searches: {search.train_size}, {search.arm}"
            if search.train_size not in self.protocol.train_sizes:
                yield f"{place}: protocol.train_sizes has no '{search.train_size}'"
            if search.arm not in self.arms:
                yield f"{place}: arms has no '{search.arm}'"
            if search.chosen not in search.trials:
                yield f"{place}: trials has no '{search.chosen}'"
            if not all(trial.worth for trial in search.trials.values()):
                yield f"{place}: a trial has no worth"
        yield from _wrong_expectations(self.config, self)


def _wrong_expectations(config: Mapping[str, Any], results: Results) -> Iterator[str]:
    """Yield what is wrong with the figures under `expected` of a run's config, which the page shows."""
    expected = config.get("expected") or {}
    if not isinstance(expected, dict):
        yield "config.expected: must be a mapping"
        return
    for name, keys in expected.items():
        place = f"config.expected.{name}"
        if not isinstance(keys, dict):
            yield f"{place}: must be a mapping"
            continue
        for key in ("value", "tolerance"):
            if problem := configs.Range().problem(keys.get(key)):
                yield f"{place}.{key}: {problem}"
        for key in ("of", "source"):
            if not isinstance(keys.get(key), str):
                yield f"{place}.{key}: must be a text"
        tasks = results.protocol.tasks | results.protocol.held_out
        for key, known in (("arm", results.arms), ("task", tasks)):
            if keys.get(key) is not None and keys[key] not in list(known):
                yield f"{place}.{key}: there is no '{keys[key]}'"


def to_json(results: Results) -> str:
    """Return the text of `results.json`, the same for the same results; what is not finite becomes null.

    Args:
        results: of an experiment.
    """
    return (
        json.dumps(plain(dataclasses.asdict(results)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def from_json(text: str, where: str = "results.json") -> Results:
    """Read what `to_json` wrote; a null where a number belongs becomes NaN.

    Args:
        text: the JSON.
        where: the file, for messages.

    Raises:
        UserError: not JSON, of another format, or a key is unknown, missing, or of the wrong type.

    Example:
        >>> from_json('{"saft": "0.1.0", "cells": []}', "runs/a/results.json")
        Traceback (most recent call last):
        saft.errors.UserError: runs/a/results.json: format: is 1, but this saft reads 2; ...
    """
    try:
        mapping = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON: {error}") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: must hold an object, but holds {type(mapping).__name__}")
    version = mapping.get("format", 1)
    if version != FORMAT:
        later = isinstance(version, int) and version > FORMAT
        cure = (
            "a later saft wrote it, which reads it too"
            if later
            else "write it again with `saft run` and the same config, which computes only what is missing"
        )
        raise UserError(f"{where}: format: is {version}, but this saft reads {FORMAT}; {cure}")
    return configs.parse(Results, mapping, where)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: tuples as lists, and None for a number that is not finite.

    Example:
        >>> plain({"loss": float("nan"), "steps": (1, 2)})
        {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
