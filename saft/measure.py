"""`saft measure`: how much a set of checkpoints interfere, who hurts whom, and how sharp each minimum is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor

from saft.checkpoint_tasks import task_of
from saft.config import as_config
from saft.errors import Unfinished, UserError, abbreviated, collecting, did_you_mean, kept_on_interrupt
from saft.files.locations import by_name
from saft.files.locations import folder as local_folder
from saft.files.staging import refuse_file
from saft.files.written_last import write_last
from saft.interference.adapter_products import adapter_products
from saft.interference.chosen_measures import chosen
from saft.interference.culprit import HOW_RIGHT, verdict
from saft.interference.loss import LossMeasure
from saft.interference.quantity import Figure, Measured, Quantity
from saft.interference.weights import (
    InterferenceAccumulator,
    InterferenceResult,
    WeightMeasure,
)
from saft.measure_config import MeasureConfig
from saft.measure_models import ModelMeasurement, merge_to_measure
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.notes import identical
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.progress import note
from saft.report.measured import measured_tables
from saft.report.results import plain
from saft.tasks import BoundTask, Examples, TaskModel

__all__ = ["MeasureConfig", "MeasureResult", "measure", "sharpness", "weight_interference"]


@dataclass(frozen=True)
class MeasureResult:
    """What was measured.

    Args:
        measured: quantity -> number, checkpoint -> number, or checkpoint -> checkpoint -> number; deeper
            where the quantity has more axes.
        quantities: what each of them is.
        verdict: sentences on who will hurt whom, the last on how far such verdicts were right.
    """

    measured: dict[str, Measured]
    quantities: dict[str, Quantity]
    verdict: list[str] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """Every quantity with its axes, to be drawn by its shape."""
        return [Figure.of(name, self.quantities[name], value) for name, value in self.measured.items()]

    def table(self) -> RenderableType:
        """Return tables of each checkpoint, of the pairs, and of all together, and the verdict."""
        said = [Text("\nverdict", style="bold"), *map(Text, self.verdict)] if self.verdict else []
        return Group(measured_tables(self.measured, self.quantities), *said)


def measure(config: MeasureConfig) -> MeasureResult:
    """Measure how much checkpoints interfere: by weights, losses, functions, and what a merge does to them.

    What reads examples is measured on the checkpoints that have a task, in the config or in their saft.json.

    Args:
        config: see `MeasureConfig`.

    Returns:
        The figures, which are also written to `config.out`.

    Raises:
        UserError: the checkpoints do not fit each other or the base, or a weight is not finite.
        Unfinished: some of it could not be measured, or `config.out` not be written; it holds the rest.
        Interrupted: by Ctrl-C; it holds what was measured before.

    Example:
        >>> measure(MeasureConfig(base="./no-folder", checkpoints=["./no-expert"]))
        Traceback (most recent call last):
        saft.errors.UserError: checkpoints.no-expert: there is no './no-expert' ...
    """
    config = as_config(config, MeasureConfig)
    if config.out is not None:
        refuse_file(Path(config.out))
    paths = by_name(config.checkpoints)
    for name in config.tasks:
        if name not in paths:
            raise UserError(f"tasks.{name}: there is no checkpoint of this name{did_you_mean(name, paths)}")
    measures = chosen(config.measures, "measures", rho=config.rho, grid=config.grid, seed=config.seed)
    folders = {name: local_folder(path, f"checkpoints.{name}") for name, path in paths.items()}
    plan = _plan(config.base, paths, config.exclude)
    same, every = identical(plan)
    if same:
        note(f"{abbreviated(same)} is the base itself: a task vector of zeros, which has no direction")
    for alike in every:
        note(f"{abbreviated(alike)} are one and the same checkpoint, so that their cosine is 1")
    of_models = {name: made for name, made in measures.items() if made.needs != "weights"}
    measurement = None
    if of_models:
        bound = {name: task for name, folder in folders.items() if (task := _bound(config, name, folder))}
        measurement = ModelMeasurement.of(config, plan, bound, folders, of_models) if bound else None
    of_weights = {name: made for name, made in measures.items() if isinstance(made, WeightMeasure)}
    measured, quantities = dict[str, Measured](), dict[str, Quantity]()
    problems: list[str] = []
    with kept_on_interrupt(lambda: MeasureResult(measured, quantities) if measured else None):
        if measurement is not None:
            measurement.make(measured, quantities, problems)
        if of_weights:
            merge = None
            if len(paths) > 1 and any(made.of_merge for made in of_weights.values()):
                merge = merge_to_measure(config.merge, plan, list(paths), config.seed)
                chosen_scaling = measured.get("scaling", config.merge.scaling)
                if isinstance(chosen_scaling, float):
                    merge = dataclasses.replace(merge, scaling=chosen_scaling)
            with collecting(problems):
                weights = _of_weights(plan, config.density, of_weights, merge)
                measured, quantities = {**weights.measured, **measured}, {**weights.quantities, **quantities}
    if not measured:
        if problems:
            raise UserError(*dict.fromkeys(problems))
        why = _why_nothing(measurement, len(paths), bool(of_weights))
        raise UserError(f"measures: there is nothing to measure: {why}")
    counts = {} if measurement is None else measurement.examples
    said = verdict(measured, quantities, counts)
    result = MeasureResult(measured, quantities, [*said, HOW_RIGHT] if said else [])
    if config.out is not None:
        with collecting(problems):
            write_last(config.out, json.dumps(plain(dataclasses.asdict(result)), indent=2) + "\n", result)
    if problems:
        raise Unfinished(*dict.fromkeys(problems), finished=result)
    return result


def weight_interference(
    base: str,
    checkpoints: Mapping[str, str],
    density: float,
    exclude: Sequence[str] = (),
    measures: Mapping[str, WeightMeasure] | None = None,
    merge: Plan | None = None,
) -> InterferenceResult:
    """Measure the task vectors of checkpoints, whole and trimmed.

    Args:
        base: the base model: a folder, a hub id, or package://.
        checkpoints: name -> checkpoint.
        density: fraction of entries that trimming keeps, in (0, 1].
        exclude: globs of tensor names that are not measured.
        measures: name -> measure; default: the `standard` ones of task vectors alone.
        merge: of these checkpoints, with its scaling coefficient, for measures that are of it.

    Raises:
        UserError: the checkpoints do not fit each other or the base, or a weight is not finite.
    """
    if measures is None:
        standard = chosen(["standard"], "measures")
        measures = {name: made for name, made in standard.items() if isinstance(made, WeightMeasure)}
    return _of_weights(_plan(base, checkpoints, exclude), density, measures, merge)


def _plan(base: str, checkpoints: Mapping[str, str], exclude: Sequence[str]) -> Plan:
    return check(MergeConfig(method="average", base=base, models=dict(checkpoints), exclude=list(exclude)))


def _of_weights(
    plan: Plan, density: float, measures: Mapping[str, WeightMeasure], merge: Plan | None = None
) -> InterferenceResult:
    """Stream task vectors through measures of weights, and their merge beside them, a tensor at a time."""
    if all(measure.of_products for measure in measures.values()) and _are_adapters(plan):
        return _of_adapters(plan, measures)
    trims = any(measure.takes == "parts" for measure in measures.values())
    thresholds = engine.thresholds(plan, density).squeeze(1) if trims else None
    accumulator = InterferenceAccumulator(list(plan.models), thresholds, measures)
    vectors = None if merge is None else engine.stream(merge)
    for name, blocks in itertools.groupby(engine.task_vectors(plan), key=operator.itemgetter(0)):
        merged = None if vectors is None or merge is None else _merged(merge, vectors, name)
        if accumulator.takes_whole_tensors:
            whole = torch.cat([block for _, block in blocks], dim=1)
            accumulator.update(whole.view(len(whole), *plan.base.headers[name].shape), name, merged)
            continue
        start = 0
        for _, block in blocks:
            end = start + block.shape[1]
            accumulator.update(block, name, None if merged is None else merged[start:end])
            start = end
    return accumulator.compute()


def _are_adapters(plan: Plan) -> bool:
    """Return whether every model is told from the base by nothing but the matrices of an adapter."""
    return all(
        source.keeps(name, plan.base) or source.factors(name, plan.base) is not None
        for source in plan.models.values()
        for name in plan.merged
    )


def _of_adapters(plan: Plan, measures: Mapping[str, WeightMeasure]) -> InterferenceResult:
    """Measure adapters by their small matrices; the changes that they stand for are never made."""
    accumulator = InterferenceAccumulator(list(plan.models), measures=measures)
    for name in plan.merged:
        factors = [source.factors(name, plan.base) for source in plan.models.values()]
        accumulator.update_products(adapter_products(factors), name, plan.base.headers[name].count)
    return accumulator.compute()


def _merged(merge: Plan, vectors: Iterator[tuple[str, Tensor]], name: str) -> Tensor:
    """Return lambda times the next merged tensor, [n]; zeros of one that the method leaves to the base."""
    if name not in merge.merged:
        return torch.zeros(merge.base.headers[name].count)
    vector = next(vector for own, vector in vectors if own == name)  # one without entries is not read
    return merge.scaling * vector.flatten()


def sharpness(
    task: BoundTask, model: TaskModel, examples: Examples, measures: Sequence[LossMeasure], count: int
) -> dict[str, Measured]:
    """Measure the loss around the trunk's weights on the first `count` examples, on the model's device.

    The head stays where it is: interference is a perturbation of the trunk only.

    Args:
        task: says the loss.
        model: trunk and head.
        examples: one split; without examples there is nothing to measure.
        measures: what is measured of the loss; see `loss_measures`.
        count: examples that are used, in one batch; at least 1.

    Returns:
        Each quantity of the measures.
    """
    batch = examples.collate(list(range(min(count, len(examples)))))
    batches = [batch.to(next(model.trunk.parameters()).device)]
    moved = [p for p in model.trunk.parameters() if p.requires_grad]
    measured: dict[str, Measured] = {}
    for measure in measures:
        measured |= measure.values(model, lambda part: task.loss(model, part), batches, moved)
    return measured


def _why_nothing(measurement: ModelMeasurement | None, checkpoints: int, of_weights: bool) -> str:
    if of_weights and checkpoints == 1:
        return "these are measures of several models; give more `checkpoints`"
    if of_weights:
        return "these are measures of the matrices of linear layers, and no such matrix is merged"
    if measurement is None:
        return "no checkpoint has a task; give `tasks:`"
    if len(measurement.space.tasks) == 1:
        (task,) = measurement.space.tasks
        return f"these are measures of several models, and only {task} has a task; give more `checkpoints`"
    return (
        f"seconds: {measurement.config.seconds:g} leaves no room for any of them; give more, or leave it out"
    )


def _bound(config: MeasureConfig, name: str, folder: Path) -> BoundTask | None:
    """Return the task of a checkpoint: from the config, or else from its saft.json; None without one."""
    try:
        return task_of(name, folder, config.tasks, config.device)
    except UserError as error:
        if name in config.tasks:
            raise
        note(f"only the weights of {name} are measured: {error}")
        return None
