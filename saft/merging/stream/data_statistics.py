"""What was collected from data for a merge: files of statistics, cut as the tensors that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saft.files.tensorfile import TensorHeader, view

__all__ = ["Collected"]


@dataclass(frozen=True)
class Collected:
    """Statistics on disk, by tensor and task, and the data that they were made of.

    Args:
        headers: name of the statistic -> for each task, name of the tensor -> where it lies.
        data: what was read, for the record.
    """

    headers: Mapping[str, Sequence[Mapping[str, TensorHeader]]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str, shape: Sequence[int], start: int, part: Tensor) -> dict[str, Tensor]:
        """Return the statistics of a part of a tensor, [n_tasks, ...], in its dtype and on its device.

        A statistic of the tensor's shape is cut with it; any other is given as a whole.

        Args:
            name: of the tensor.
            shape: of the whole tensor.
            start: place of the part's first element in the flattened tensor.
            part: of the tensor, flat or in its shape.
        """
        rows_by_kind = {}
        for kind, tasks in self.headers.items():
            if all(name in headers for headers in tasks):
                rows = [view(headers[name]) for headers in tasks]
                if rows[0].shape == torch.Size(shape):
                    rows = [row.reshape(-1)[start : start + part.numel()].view(part.shape) for row in rows]
                rows_by_kind[kind] = torch.stack(rows).to(part)
        return rows_by_kind
