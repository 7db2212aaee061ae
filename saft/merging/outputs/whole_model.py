"""A merge written as whole weights: one checkpoint, which every reader takes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from saft.files.weights_writer import WeightsWriter
from saft.merging.outputs.output import OUTPUTS, Output, Written
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.merging.stream.reader import Progress

__all__ = ["Weights"]

_COPIED = 1 << 20  # elements that are copied from the base at a time


@OUTPUTS.register("weights")
@dataclass(frozen=True)
class Weights(Output):
    """Base + λ · merged task vector, tensor by tensor, in one file or in shards.

    Args:
        merged: what `engine.stream` has given for this method and these models, where a caller still holds
            it; so a λ that was found by trying costs no second merge.
    """

    merged: Iterable[tuple[str, Tensor]] | None = None
    by_name = False  # they are what comes out where nothing else is asked for

    def bytes(self, plan: Plan) -> int:
        """Return the bytes of all tensors."""
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in plan.layout.values())

    def write(self, plan: Plan, folder: Path, progress: Progress | None = None) -> Written:
        """Write the weights in the order of the file, what is copied between what is merged.

        Raises:
            UserError: as `Output.write`.
        """
        with WeightsWriter(folder, plan.layout, plan.shard_size) as writer:
            pieces = (
                engine.weights(plan, progress, only=set(writer.names))
                if self.merged is None
                else engine.weights_of(plan, self.merged)
            )
            copied = deque(name for name in writer.names if name in plan.copied)
            place = {name: at for at, name in enumerate(writer.names)}
            for name, piece in pieces:
                while copied and place[copied[0]] < place[name]:
                    _copy(plan, copied.popleft(), writer)
                writer.append(name, piece)
            for name in copied:
                _copy(plan, name, writer)
        return Written()


def _copy(plan: Plan, name: str, writer: WeightsWriter) -> None:
    flat = plan.base.tensor(name).reshape(-1)
    for start in range(0, len(flat), _COPIED):
        writer.append(name, engine.cast(name, flat[start : start + _COPIED], plan.layout[name][0]))
