"""Who computes the cells of an experiment, and where; one file an executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from saft.experiment.cells import Cell
from saft.experiment.events import Tell
from saft.experiment.session import Session
from saft.registry import Registry

__all__ = ["EXECUTORS", "Executor"]


class Executor(Protocol):
    """Has every cell computed.

    An executor in this process may use the session; one in others calls, in each of them,
    `saft.experiment.run_cell(session.folder.path, str(cell), tell)`.
    """

    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Return once what was missing of all cells is computed.

        Args:
            session: of this process; config.yaml and `base` are written.
            cells: those that lack something.
            tell: is to be told what every cell tells.

        Raises:
            UserError: a cell cannot be computed.
        """


EXECUTORS: Registry[Executor] = Registry("executor", "saft.experiment.executors")
