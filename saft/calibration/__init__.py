"""What some merge methods need to know from data, collected before the merge; one file a collector.

A collector reads the models and a few unlabelled examples of each task, never of the test split. What it
finds goes to files, from which the engine gives each block its part.
"""

from __future__ import annotations

import dataclasses
import tempfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from saft.calibration.data import (
    Advance,
    CalibrationData,
    ModelTask,
    load_calibration_data,
    model_bytes,
    model_tasks,
)
from saft.errors import UserError, collecting
from saft.files.checkpoint import write_tensors
from saft.files.tensorfile import TensorHeader, read_headers
from saft.merging.plan import Plan
from saft.merging.stream.data_statistics import Collected
from saft.merging.stream.reader import Progress
from saft.registry import Registry
from saft.tasks import Task

__all__ = ["COLLECTORS", "Collector", "Statistics", "check", "collected", "memory", "without_labels"]

Statistics = Iterator[tuple[str, str, dict[str, Tensor]]]
"""For each task: its name, the name of the statistic, and name of the tensor -> its statistic."""


class Collector(ABC):
    """What a method collects: a class in `COLLECTORS`, whose name the method's `calibration` is."""

    of_labels: ClassVar[bool] = False
    """Whether it reads the probabilities of labels, which not every task gives."""

    @abstractmethod
    def memory(self, plan: Plan) -> int:
        """Return the bytes that the weights and what is made of them take at a time, beside activations."""

    def cost(self, data: CalibrationData) -> float:
        """Return the cost of collecting, in any unit: what `collect` advances in all; here the examples."""
        return float(sum(len(examples) for examples in data.examples.values()))

    @abstractmethod
    def collect(self, data: CalibrationData, advance: Advance) -> Statistics:
        """Yield the statistics, task by task."""


COLLECTORS: Registry[type[Collector]] = Registry(Collector, "collector", "saft.calibration")


def check(plan: Plan) -> None:
    """Check that the data of a merge are there, without reading a model; a plan that needs none is fine.

    Raises:
        UserError: a task is unknown or missing, or its table has no such column or split; with one message
            for each.
    """
    if not plan.reads_examples:
        return
    declared = model_tasks(plan)
    _refuse_without_labels(plan, declared)
    problems: list[str] = []
    for model_task in declared.values():
        with collecting(problems):
            model_task.task.check(model_task.where)
    if problems:
        raise UserError(*problems)


def without_labels(calibration: str, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Yield a message for each task that does not give what a method reads, without reading a model.

    Args:
        calibration: of the method; "" reads nothing.
        tasks: name -> task.
    """
    if calibration and COLLECTORS.get(calibration).of_labels:
        for name, task in tasks.items():
            if not task.classifies:
                yield (
                    f"this method reads the probabilities of labels, which task '{name}' does not give: it "
                    "chooses no label of a list; take another method"
                )


def _refuse_without_labels(plan: Plan, declared: Mapping[str, ModelTask]) -> None:
    problems = [
        f"models.{model}: {problem}"
        for model, of in declared.items()
        for problem in without_labels(plan.method.calibration, {of.name: of.task})
    ]
    if problems:
        raise UserError(*problems)


def memory(plan: Plan) -> int:
    """Return the bytes that the models take while examples go through them, beside the activations."""
    collector = COLLECTORS.get(plan.method.calibration)() if plan.method.calibration else None
    least = model_bytes(plan) if plan.output.reads_examples else 0
    return max(least, collector.memory(plan) if collector else 0)


@contextmanager
def collected(plan: Plan, progress: Progress | None = None) -> Iterator[Plan]:
    """Collect what the method of a plan needs, and give its output a trainer, if that reads examples.

    A plan that needs nothing is given back as it is.

    Args:
        plan: from `saft.merging.plan.check`.
        progress: called with how much is done, and how much there is to do.

    Yields:
        The plan, with what was collected; the files are removed at the end of the block.

    Raises:
        UserError: as `check`; or what was collected is not finite.
    """
    if plan.output.reads_examples:
        from saft.calibration.intervmerge import train_into

        plan = dataclasses.replace(plan, train=train_into)
    if not plan.method.calibration:
        yield plan
        return
    collector = COLLECTORS.get(plan.method.calibration)()
    declared = model_tasks(plan)
    _refuse_without_labels(plan, declared)
    data = load_calibration_data(plan, declared)
    done, cost = 0.0, max(collector.cost(data), 1.0)

    def advance(by: float) -> None:
        nonlocal done
        done += by
        if progress:
            progress(int(done), int(cost))

    with tempfile.TemporaryDirectory(prefix="saft-") as folder:
        headers: dict[str, dict[str, dict[str, TensorHeader]]] = defaultdict(dict)
        # Dropout is off, but a model's own code might draw: nothing here changes the caller's random state.
        with torch.random.fork_rng():
            torch.manual_seed(plan.config.seed)
            for task, kind, tensors in collector.collect(data, advance):
                _refuse_not_finite(plan, task, tensors)
                file = Path(folder) / f"{kind}-{list(plan.models).index(task)}.safetensors"
                write_tensors(file, tensors)
                headers[kind][task] = read_headers(file)
        by_kind = {kind: [by_task[task] for task in plan.models] for kind, by_task in headers.items()}
        yield dataclasses.replace(plan, collected=Collected(by_kind, data.described()))


def _refuse_not_finite(plan: Plan, task: str, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"models.{task}: {plan.models[task].folder}: what was collected for '{name}' holds NaN or "
                "infinity; the model diverges on its data: train it again, or leave it out"
            )
