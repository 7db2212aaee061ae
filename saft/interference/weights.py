"""Task vectors -> every registered measure of weights, in one pass over blocks `[n_tasks, n]`."""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from saft.errors import UserError
from saft.interference.quantity import MEASURES, Measure, Measured, Quantity
from saft.merging.inputs.tensor_names import can_be_factored
from saft.merging.merge_config import LAYERS

__all__ = [
    "InterferenceAccumulator",
    "InterferenceResult",
    "MatrixMeasure",
    "MergedWeightMeasure",
    "WeightMeasure",
    "of_task_vectors",
]

CHUNK = 1 << 16  # columns taken at once: bounds the float64 copies to a few megabytes, which fit the cache
Takes = Literal["parts", "matrices", "merge"]
TRIMMED, BY_LAYER = "_trimmed", "_by_layer"
OUTSIDE = "outside"  # the layer of tensors that are in none: embeddings, norms and heads
KEPT = Quantity(
    "share of the task vector's entries that trimming keeps",
    "%",
    per="task",
    scale=100,
    decimals=1,
    definition="|{i : |τ_ti| ≥ threshold of t, τ_ti ≠ 0}| / n",
)


class WeightMeasure(Measure):
    """A measure that is a function of sums over the coordinates, so that it can be taken over a stream.

    Attributes:
        by_layer: names of quantities that are told of each layer too, as `NAME_by_layer`.
        of_products: whether its sums are the inner products of all pairs of task vectors, `[n_tasks,
            n_tasks]`, which of adapters are had without their changes.
        takes: what its blocks are: parts of tensors, whole matrices, or parts with the merge beside them.
    """

    takes: ClassVar[Takes] = "parts"
    needs = "weights"
    standard = True
    by_layer: ClassVar[tuple[str, ...]] = ()
    of_products: ClassVar[bool] = False

    @property
    def of_merge(self) -> bool:
        """Whether a merge of the models is made for it: the weights of the merge of all."""
        return self.takes == "merge"

    @property
    def variants(self) -> dict[str, Quantity]:
        """Name -> what is told besides; see `InterferenceResult`."""
        trimmed = self.quantities if self.takes == "parts" else {}
        return {name + TRIMMED: _of_trimmed(quantity) for name, quantity in trimmed.items()} | {
            name + BY_LAYER: _of_layer(self.quantities[name]) for name in self.by_layer
        }

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


class MatrixMeasure(WeightMeasure):
    """A measure of whole matrices: its blocks are `[n_tasks, rows, columns]`, of linear layers only."""

    takes = "matrices"
    standard = False


class MergedWeightMeasure(WeightMeasure):
    """A measure of task vectors beside their merge: the last row of its blocks is lambda times the merge."""

    takes = "merge"


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
            quantity is there a second time as `NAME_trimmed`, and `kept` is what trimming left. Some are
            there of each layer, as `NAME_by_layer`: layer -> value.
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
        self._by_layer: dict[str, dict[str, Tensor]] = {}
        self._trimmed: dict[str, Tensor] = {}
        self._kept = torch.zeros(len(self.tasks), dtype=torch.float64)

    @property
    def takes_whole_tensors(self) -> bool:
        """Whether a measure wants blocks that are whole tensors, in their shapes."""
        return any(measure.takes == "matrices" for measure in self._measures.values())

    def update(self, block: Tensor, name: str = "", merged: Tensor | None = None) -> None:
        """Add one tensor of every task vector, or a part of one.

        Args:
            block: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; is not modified.
            name: of the tensor; it tells the layer, and whether it is the matrix of a linear layer.
            merged: the same part of lambda times the merged vector, for measures that ask for it.

        Raises:
            ValueError: the block has not one row for each task.
            UserError: an entry is NaN or infinite.
        """
        if block.shape[0] != len(self.tasks):
            raise ValueError(f"a block has one row for each of {len(self.tasks)} tasks, not {block.shape[0]}")
        whole = self._by_layer.setdefault(_layer(name), {})
        if block.dim() == 3 and can_be_factored(name, block.shape[1:]):
            self._add(whole, block.detach().double(), "matrices")
        block = block.detach().reshape(len(block), -1)  # of a scalar, such as a logit scale, [n_tasks]
        starts = range(0, block.shape[1], CHUNK)
        for start, columns in zip(starts, torch.split(block, CHUNK, dim=1), strict=False):
            chunk = columns.double()
            self._refuse_infinite(chunk.sum(dim=1))  # a float64 sum of float32 numbers cannot overflow
            self._n_entries += chunk.shape[1]
            self._add(whole, chunk)
            if merged is not None:
                row = merged.detach().reshape(1, -1)[:, start : start + CHUNK].double()
                self._add(whole, torch.cat([chunk, row]), "merge")
            if self.thresholds is not None:
                thresholds = self.thresholds.to(chunk.device)[:, None]
                chunk = torch.where(chunk.abs() >= thresholds, chunk, 0.0)
                self._kept += chunk.count_nonzero(dim=1).cpu()
                self._add(self._trimmed, chunk)

    @property
    def takes_products(self) -> bool:
        """Whether inner products are all that the measures need; trimming needs every entry."""
        return self.thresholds is None and all(measure.of_products for measure in self._measures.values())

    def update_products(self, products: Tensor, name: str, count: int) -> None:
        """Add one tensor by the inner products of its task vectors, where these are all that is needed.

        Args:
            products: `[n_tasks, n_tasks]`, float64.
            name: of the tensor; it tells the layer.
            count: entries of the tensor.

        Raises:
            UserError: a number is NaN or infinite.
        """
        self._refuse_infinite(products.diagonal())
        whole = self._by_layer.setdefault(_layer(name), {})
        self._n_entries += count
        for measure in self._measures:
            _add_to(whole, measure, products)

    def compute(self) -> InterferenceResult:
        """Return the measures of everything that was added so far.

        Raises:
            UserError: nothing was added.
        """
        if self._n_entries == 0:
            raise UserError("interference: the task vectors have no floating-point entry to measure")
        whole: dict[str, Tensor] = {}
        for sums in self._by_layer.values():
            for name, part in sums.items():
                _add_to(whole, name, part)
        measured, quantities = self._measured(whole), dict[str, Quantity]()
        for name in whole:
            of_measure = self._measures[name].quantities
            quantities |= {quantity: of_measure[quantity] for quantity in of_measure if quantity in measured}
        if self.thresholds is not None and (trimmed := self._measured(self._trimmed)):
            measured |= {name + TRIMMED: value for name, value in trimmed.items()}
            measured["kept"] = self._named(self._kept / self._n_entries)
            quantities |= {name + TRIMMED: _of_trimmed(quantities[name]) for name in trimmed}
            quantities["kept"] = KEPT
        for name, values in self._of_layers().items():
            measured[name + BY_LAYER] = values
            quantities[name + BY_LAYER] = _of_layer(quantities[name])
        return InterferenceResult(self.tasks, self._n_entries, measured, quantities)

    def _refuse_infinite(self, of_tasks: Tensor) -> None:
        """Refuse task vectors of which a number `[n_tasks]` that rests on every entry is not finite."""
        finite = of_tasks.isfinite()
        if not finite.all():
            broken = [task for task, fine in zip(self.tasks, finite.tolist(), strict=True) if not fine]
            raise UserError(*(f"task '{task}': its task vector holds NaN or infinity" for task in broken))

    def _of_layers(self) -> dict[str, dict[str, Any]]:
        """Return quantity -> layer -> value, where there is more than one layer."""
        told = {quantity for measure in self._measures.values() for quantity in measure.by_layer}
        result: dict[str, dict[str, Any]] = {}
        for layer in sorted(self._by_layer, key=_place) if len(self._by_layer) > 1 else ():
            sums = self._by_layer[layer]
            for quantity, value in self._measured(sums).items():
                if quantity in told:
                    result.setdefault(quantity, {})[layer] = value
        return result

    def _add(self, totals: dict[str, Tensor], chunk: Tensor, what: Takes = "parts") -> None:
        """Add a chunk to the sums of those measures that take such chunks."""
        for name, measure in self._measures.items():
            if measure.takes == what:
                _add_to(totals, name, measure.sums(chunk).double().cpu())

    def _measured(self, totals: dict[str, Tensor]) -> dict[str, Measured]:
        """Return each quantity; of one model only those of each task, since the others compare models."""
        values = {}
        for name, sums in totals.items():
            values.update(self._measures[name].values(sums))
        several = len(self.tasks) > 1
        return {name: self._named(value) for name, value in values.items() if several or value.dim() == 1}

    def _named(self, value: Tensor) -> Measured:
        """Return a tensor's numbers with the names of the tasks."""
        if value.dim() == 0:
            return float(value)
        if value.dim() == 1:
            return dict(zip(self.tasks, value.tolist(), strict=True))
        rows = (dict(zip(self.tasks, row, strict=True)) for row in value.tolist())
        return dict(zip(self.tasks, rows, strict=True))


def _add_to(totals: dict[str, Tensor], name: str, part: Tensor) -> None:
    totals[name] = totals[name] + part if name in totals else part


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


def _layer(name: str) -> str:
    """Return the layer that a tensor is in.

    Example:
        >>> _layer("encoder.layer.3.attention.query.weight"), _layer("embeddings.word_embeddings.weight")
        ('encoder.layer.3', 'outside')
    """
    match = re.search(LAYERS, name)
    return name[: match.end(1)] if match else OUTSIDE


def _place(layer: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts layers by their numbers, 10 after 9; what is in none comes first."""
    parts = re.split(r"(\d+)", layer)
    return [(layer != OUTSIDE, int(part) if part.isdecimal() else -1, part) for part in parts]


def _of_layer(quantity: Quantity) -> Quantity:
    meaning = f"{quantity.meaning}; of each layer"
    axes = ("layer", *quantity.axes)
    return dataclasses.replace(quantity, meaning=meaning, per="grid", axes=axes, cell="")


def _of_trimmed(quantity: Quantity) -> Quantity:
    trimmed = "; of trimmed task vectors"
    cell = quantity.cell and f"{quantity.cell}{trimmed}"
    return dataclasses.replace(quantity, meaning=f"{quantity.meaning}{trimmed}", cell=cell)
