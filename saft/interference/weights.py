"""Task vectors -> every registered measure of weights, in one pass over blocks `[n_tasks, n]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from saft.errors import UserError
from saft.registry import Registry

__all__ = ["MEASURES", "WeightMeasure", "WeightMeasurement", "WeightInterference"]

CHUNK = 1 << 16  # columns taken at once: bounds the float64 copies to a few megabytes, which fit the cache


class WeightMeasure(Protocol):
    """A measure that is a function of sums over the coordinates, so that it can be taken over a stream."""

    def sums(self, block: Tensor) -> Tensor:
        """Return what a float64 block `[n_tasks, n]` adds to the sums, of a shape free of n."""

    def value(self, sums: Tensor) -> Any:
        """Return the measure from the whole sums, as plain finite numbers, lists and dicts (JSON)."""


MEASURES: Registry[type[WeightMeasure]] = Registry("measure of weights", "saft.interference")


@dataclass(frozen=True)
class WeightInterference:
    """What `WeightMeasurement.compute` returns; `dataclasses.asdict` gives plain JSON.

    Attributes:
        tasks: the tasks, in the order of the rows of every vector and matrix below.
        n_entries: coordinates of one task vector.
        whole: measure -> value, of the task vectors as they are.
        kept: of each task, the fraction of entries that are left after trimming; None without thresholds.
        trimmed: measure -> value, of the trimmed task vectors; None without thresholds.
    """

    tasks: list[str]
    n_entries: int
    whole: dict[str, Any]
    kept: list[float] | None = None
    trimmed: dict[str, Any] | None = None


class WeightMeasurement:
    """Accumulates every measure of weights over the tensors of aligned task vectors.

    The sums are float64; one chunk of one tensor is held at a time. How the coordinates are cut into blocks
    does not matter beyond float64 round-off.

    Args:
        tasks: names of the n_tasks task vectors, in the order of the rows of each block.
        thresholds: `[n_tasks]`, the smallest magnitude that each task's trim keeps (entries of just that
            magnitude are kept, as TIES does). None leaves the trimmed measures out.
        measures: names from `MEASURES`; default: all.

    Example:
        >>> measurement = WeightMeasurement(["a", "b"])
        >>> measurement.update(torch.tensor([[3.0, 0.0], [3.0, 4.0]]))
        >>> measurement.update(torch.tensor([[4.0], [0.0]]))
        >>> result = measurement.compute()
        >>> result.whole["norm"]["l2"], result.whole["cosine"], result.n_entries
        ([5.0, 5.0], [[1.0, 0.36], [0.36, 1.0]], 3)

    Source:
        The torchmetrics way, update and compute; the measures name their own.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        thresholds: Tensor | Sequence[float] | None = None,
        measures: Sequence[str] | None = None,
    ) -> None:
        self.tasks = list(tasks)
        self.thresholds = None if thresholds is None else torch.as_tensor(thresholds, dtype=torch.float64)
        if self.thresholds is not None and self.thresholds.shape != (len(self.tasks),):
            raise ValueError(
                f"thresholds: one for each of {len(self.tasks)} tasks, not {tuple(self.thresholds.shape)}"
            )
        names = MEASURES.names() if measures is None else measures
        self._measures = {name: MEASURES.get(name)() for name in names}
        self._n_entries = 0
        self._whole: dict[str, Tensor] = {}
        self._trimmed: dict[str, Tensor] = {}
        self._kept = torch.zeros(len(self.tasks), dtype=torch.float64)

    def update(self, block: Tensor) -> None:
        """Add one tensor of every task vector.

        Args:
            block: `[n_tasks, n]` or `[n_tasks, ...]`, floating point; is not modified.

        Raises:
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

    def compute(self) -> WeightInterference:
        """Return the measures of everything that was added so far."""
        if self._n_entries == 0:
            raise UserError("interference: the task vectors have no floating-point entry to measure")
        trimmed = self.thresholds is not None
        return WeightInterference(
            tasks=self.tasks,
            n_entries=self._n_entries,
            whole=self._values(self._whole),
            kept=(self._kept / self._n_entries).tolist() if trimmed else None,
            trimmed=self._values(self._trimmed) if trimmed else None,
        )

    def _add(self, totals: dict[str, Tensor], chunk: Tensor) -> None:
        for name, measure in self._measures.items():
            sums = measure.sums(chunk).double().cpu()
            totals[name] = totals[name] + sums if name in totals else sums

    def _values(self, totals: dict[str, Tensor]) -> dict[str, Any]:
        return {name: measure.value(totals[name]) for name, measure in self._measures.items()}
