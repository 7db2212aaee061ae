"""Who computes the cells of an experiment, and where; one file an executor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from saft.experiment.cells import Cell
from saft.experiment.events import Tell
from saft.experiment.run_config import RunConfig
from saft.experiment.session import Session
from saft.registry import Registry

__all__ = ["EXECUTORS", "Executor"]


@dataclass(frozen=True)
class Executor(ABC):
    """Has every cell computed.

    One in this process may use the session. One in others says how its workers are started and ended, each of
    which calls `saft.experiment.worker.work`, and leaves the rest to `saft.experiment.overseer.oversee`.

    Args:
        config: of the run.

    Raises:
        UserError: what it needs is not there: a library, a cluster.
    """

    elsewhere: ClassVar[bool] = False
    """Whether other machines compute: this one needs no accelerator then."""

    config: RunConfig

    @abstractmethod
    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Return once what was missing of all cells is computed.

        Args:
            session: of this process; config.yaml and `base` are written.
            cells: those that lack something.
            tell: is to be told what every cell tells.

        Raises:
            UserError: with what went wrong in each cell that cannot be computed; all others are computed.
        """


EXECUTORS: Registry[type[Executor]] = Registry(Executor, "executor", "saft.experiment.executors")
