"""The result of a merge that is not done yet, as an input of the check of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from saft.files.checkpoint import WEIGHTS
from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.source import Source
from saft.merging.plan import Plan

__all__ = ["expected_result"]


@dataclass(frozen=True)
class _Expected(Source):
    """What a plan will give: its base in the plan's dtypes stands for it, where numbers are asked for."""

    plan: Plan = field(kw_only=True)

    @property
    def heads(self) -> Mapping[str, Path]:
        return self.plan.carried.heads

    @property
    def tasks(self) -> Mapping[str, Any]:
        return self.plan.carried.tasks

    def tensor(self, name: str) -> Tensor:
        return self.plan.base.tensor(name).to(self.headers[name].dtype)


def expected_result(plan: Plan, name: str, folder: Path) -> Source:
    """Return what a plan will give as an input, with the numbers of its base.

    Args:
        plan: of a merge that writes whole weights.
        name: by which it is an input.
        folder: where it will be; nothing is there yet.
    """
    file, end = folder / WEIGHTS, 0
    headers: dict[str, TensorHeader] = {}
    for tensor, (dtype, shape) in plan.layout.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        headers[tensor] = TensorHeader(dtype, shape, file, (start, end))
    return _Expected(name, plan.base.folder, headers, {}, plan.base.config, (file,), plan=plan)
