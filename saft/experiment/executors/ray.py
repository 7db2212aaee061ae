"""Cells on a Ray cluster, whose machines share the experiment's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saft.errors import UserError, first_line
from saft.experiment.cells import Cell
from saft.experiment.events import Tell
from saft.experiment.executors import EXECUTORS, Executor
from saft.experiment.overseer import oversee
from saft.experiment.run_config import RunConfig
from saft.experiment.session import Session
from saft.experiment.worker import work
from saft.extras import require
from saft.progress import note

__all__ = ["Ray"]

GRACE = 30.0  # seconds that a worker has to end
EVERY = 10.0  # seconds between two signs of life, and two looks at them


@EXECUTORS.register("ray")
@dataclass(frozen=True)
class Ray(Executor):
    """Computes as many cells at a time as the config has `workers`, each in a task of Ray.

    `ray start --head` on one machine and `ray start --address=...` on the others is all that it needs; every
    machine has to see the experiment's folder, the data and an installed saft under the same paths.
    """

    elsewhere: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("ray", "executor: ray")
        import ray

        if ray.is_initialized():
            return
        address = self.config.ray.address
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"ray.address: '{address}' is not a cluster within reach: {first_line(error)}; "
                "start one by `ray start --head`"
            ) from None

    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Compute the cells; see `Executor`."""
        oversee(session, cells, tell, _Tasks(session.folder.path, self.config), EVERY)


class _Tasks:
    """Workers that are tasks of Ray."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        import ray

        self._ray = ray
        options = config.ray
        # What becomes of a cell is in its claims, so Ray is to repeat nothing itself.
        self._work = ray.remote(_work).options(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0, scheduling_strategy="SPREAD"
        )
        self._arguments = (str(folder.absolute()), os.getcwd(), options.cpus)
        self._tasks: list[Any] = []

    def start(self, count: int) -> None:
        """Start further workers."""
        self._tasks += (self._work.remote(*self._arguments) for _ in range(count))

    def running(self) -> int:
        """Return how many workers have not ended."""
        if self._tasks:
            ended, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
            for task in ended:
                self._note_end(task)
        return len(self._tasks)

    def end(self) -> None:
        """End every worker, and wait for that."""
        for force in (False, True):
            for task in self._tasks:
                self._ray.cancel(task, force=force)
            if self._tasks:
                _, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=GRACE)

    def _note_end(self, task: Any) -> None:
        """Note what has ended a worker, unless it ended well."""
        try:
            self._ray.get(task)
        except Exception as error:  # whatever its task raised, or Ray has to say of it
            said = str(error).strip() or type(error).__name__
            note(f"a worker of Ray has ended: {said.splitlines()[-1]}")


def _work(folder: str, place: str, threads: int) -> None:
    """Compute cells on a machine of the cluster."""
    os.chdir(place)  # files of data may be named from where `saft run` was called
    work(folder, threads, EVERY)
