"""Task vectors -> every registered measure of weights, in one pass over blocks `[n_tasks, n]`."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saft.errors import UserError
from saft.interference.quantity import MEASURES, Measure, Measured, Quantity

__all__ = ["InterferenceAccumulator", "InterferenceResult", "WeightMeasure", "of_task_vectors"]

CHUNK = 1 << 16  # columns taken at once: bounds the float64 copies to a few megabytes, which fit the cache
TRIMMED = "_trimmed"
KEPT = Quantity(
    "share of the task vector's entries that trimming keeps", "%", per="task", scale=100, decimals=1
)


class WeightMeasure(Measure):
    """A measure that is a function of sums over the coordinates, so that it can be taken over a stream."""

    needs = "weights"
    standard = True

    @abstractmethod
    def sums(self, block: Tensor) -> Tensor:
        """Return what a float64 block `[n_tasks, n]` adds to the sums, of a shape free of n.

        Args:
            block: float64 `[n_tasks, n]`.
        """

    @abstractmethod
    def values(self, sums: Tensor) -> dict[str, Tensor]:
        """Return each quantity from the whole sums: `[]`, `[n_tasks]` or `[n_tasks, n_tasks]`, finite.

        Args:
            sums: what `sums` returned, added up over all blocks.
        """


def of_task_vectors(measure: WeightMeasure, task_vectors: Tensor) -> dict[str, Tensor]:
    """Return a measure of task vectors `[n_tasks, ...]` held in memory; see `WeightMeasure.values`.

    Args:
        measure: one of `MEASURES` that needs only weights.
        task_vectors: `[n_tasks, n]` or `[n_tasks, ...]`, floating point.
    """
    return measure.values(measure.sums(task_vectors.detach().flatten(start_dim=1).double()).double())


@dataclass(frozen=True)
class InterferenceResult:
    """What `InterferenceAccumulator.compute` returns; `dataclasses.asdict` gives plain JSON.

    Attributes:
        tasks: the tasks, in the order of the rows of the blocks.
        n_entries: coordinates of one task vector.
        measured: quantity -> number, task -> number, or task -> task -> number. With thresholds, every
            quantity is there a second time as `NAME_trimmed`, and `kept` is what trimming left.
        quantities: quantity -> what it is.
    """

    tasks: list[str]
    n_entries: int
    measured: dict[str, Measured]
    quantities: dict[str, Quantity]


class InterferenceAccumulator:
    """Accumulates every measure of weights over the tensors of aligned task vectors.

    The sums are float64; one chunk of one tensor is held at a time. How the coordinates are cut into blocks
    does not matter beyond float64 round-off.

    Args:
        tasks: names of the n_tasks task vectors, in the order of the rows of each block.
        thresholds: `[n_tasks]`, the smallest magnitude that each task's trim keeps (entries of just that
            magnitude are kept, as TIES does). None leaves the trimmed quantities out.
        measures: names from `MEASURES`, or name -> measure; default: all that need weights only.

    Raises:
        ValueError: there is not one threshold for each task.
        UserError: a measure does not exist, or needs more than weights.

    Example:
        >>> accumulator = InterferenceAccumulator(["a", "b"])
        >>> accumulator.update(torch.tensor([[3.0, 0.0], [3.0, 4.0]]))
        >>> accumulator.update(torch.tensor([[4.0], [0.0]]))
        >>> result = accumulator.compute()
        >>> result.measured["norm"], result.measured["cosine"]["a"], result.n_entries
        ({'a': 5.0, 'b': 5.0}, {'a': 1.0, 'b': 0.36}, 3)

    Source:
        The torchmetrics way, update and compute; the measures name their own.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        thresholds: Tensor | Sequence[float] | None = None,
        measures: Sequence[str] | Mapping[str, WeightMeasure] | None = None,
    ) -> None:
        self.tasks = list(tasks)
        self.thresholds = None if thresholds is None else torch.as_tensor(thresholds, dtype=torch.float64)
        if self.thresholds is not None and self.thresholds.shape != (len(self.tasks),):
            raise ValueError(
                f"thresholds: one for each of {len(self.tasks)} tasks, not {tuple(self.thresholds.shape)}"
            )
        self._measures = dict(measures) if isinstance(measures, Mapping) else _weight_measures(measures)
        self._n_entries = 0
        self._whole: dict[str, Tensor] = {}
        self._trimmed: dict[str, Tensor] = {}
        self._kept = torch.zeros(len(self.tasks), dtype=torch.float64)

    def update(self, block: Tensor) -> None:
        """Add one tensor of every task vector.

        Args:
            block: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; is not modified.

        Raises:
            ValueError: the block has not one row for each task.
            UserError: an entry is NaN or infinite.
        """
        if block.shape[0] != len(self.tasks):
            raise ValueError(f"a block has one row for each of {len(self.tasks)} tasks, not {block.shape[0]}")
        block = block.detach().flatten(start_dim=1)
        for columns in torch.split(block, CHUNK, dim=1):
            chunk = columns.double()
            finite = chunk.sum(dim=1).isfinite()  # a float64 sum of float32 numbers cannot overflow
            if not finite.all():
                broken = [task for task, fine in zip(self.tasks, finite.tolist(), strict=True) if not fine]
                raise UserError(*(f"task '{task}': its task vector holds NaN or infinity" for task in broken))
            self._n_entries += chunk.shape[1]
            self._add(self._whole, chunk)
            if self.thresholds is not None:
                thresholds = self.thresholds.to(chunk.device)[:, None]
                chunk = torch.where(chunk.abs() >= thresholds, chunk, 0.0)
                self._kept += chunk.count_nonzero(dim=1).cpu()
                self._add(self._trimmed, chunk)

    def compute(self) -> InterferenceResult:
        """Return the measures of everything that was added so far.

        Raises:
            UserError: nothing was added.
        """
        if self._n_entries == 0:
            raise UserError("interference: the task vectors have no floating-point entry to measure")
        measured, quantities = self._measured(self._whole), self.quantities
        if self.thresholds is not None:
            trimmed = self._measured(self._trimmed)
            measured |= {name + TRIMMED: value for name, value in trimmed.items()}
            measured["kept"] = self._named(self._kept / self._n_entries)
            quantities |= {name + TRIMMED: _of_trimmed(quantity) for name, quantity in quantities.items()}
            quantities["kept"] = KEPT
        return InterferenceResult(self.tasks, self._n_entries, measured, quantities)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What the measures give, of the task vectors as they are."""
        every = self._measures.values()
        return {name: quantity for measure in every for name, quantity in measure.quantities.items()}

    def _add(self, totals: dict[str, Tensor], chunk: Tensor) -> None:
        for name, measure in self._measures.items():
            sums = measure.sums(chunk).double().cpu()
            totals[name] = totals[name] + sums if name in totals else sums

    def _measured(self, totals: dict[str, Tensor]) -> dict[str, Measured]:
        values = {}
        for name, measure in self._measures.items():
            values.update(measure.values(totals[name]))
        return {name: self._named(value) for name, value in values.items()}

    def _named(self, value: Tensor) -> Measured:
        """Return a tensor's numbers with the names of the tasks."""
        if value.dim() == 0:
            return float(value)
        if value.dim() == 1:
            return dict(zip(self.tasks, value.tolist(), strict=True))
        rows = (dict(zip(self.tasks, row, strict=True)) for row in value.tolist())
        return dict(zip(self.tasks, rows, strict=True))


def _weight_measures(names: Sequence[str] | None) -> dict[str, WeightMeasure]:
    if names is None:
        names = [name for name, measure in MEASURES.items() if issubclass(measure, WeightMeasure)]
    measures = {}
    for name in names:
        measure = MEASURES.get(name)()
        if not isinstance(measure, WeightMeasure):
            raise UserError(f"measure '{name}': needs {measure.needs}, and only weights are here")
        measures[name] = measure
    return measures


def _of_trimmed(quantity: Quantity) -> Quantity:
    return dataclasses.replace(quantity, meaning=f"{quantity.meaning}; of trimmed task vectors")
