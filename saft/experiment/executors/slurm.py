"""Cells on a Slurm cluster, through submitit: workers are the tasks of job arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.events import Tell
from saft.experiment.executors import EXECUTORS, Executor
from saft.experiment.overseer import oversee
from saft.experiment.run_config import RunConfig
from saft.experiment.session import Session
from saft.experiment.worker import work
from saft.extras import require

__all__ = ["Slurm"]

GRACE = 10.0  # seconds that workers have to end
EVERY = 10.0  # seconds between two signs of life, and two looks at them
CLUSTER = "slurm"  # as submitit calls it


@EXECUTORS.register("slurm")
@dataclass(frozen=True)
class Slurm(Executor):
    """Computes as many cells at a time as the config has `workers`, each worker a task of a job array.

    `saft run` stays on the machine where it is called, and submits workers as long as cells are missing. One
    whose time is up, or that is pre-empted, gives its cell back, and the next goes on from the last
    checkpoint. What workers print is in the folder's `slurm`.
    """

    elsewhere: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("submitit", "executor: slurm")
        import submitit

        if submitit.AutoExecutor.which() != "slurm" and CLUSTER == "slurm":
            raise UserError(
                "executor: there is no Slurm on this machine (no `srun`); call it on a login node"
            )

    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Compute the cells; see `Executor`."""
        oversee(session, cells, tell, _Jobs(session.folder.path, self.config), EVERY)


class _Jobs:
    """Workers that are tasks of job arrays."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        import submitit

        options = config.slurm
        self._arguments = (str(folder.absolute()), options.cpus)
        self._submit = submitit.AutoExecutor(folder.absolute() / "slurm" / "%j", cluster=CLUSTER)
        self._submit.update_parameters(
            name=f"saft-{folder.name}",
            timeout_min=options.minutes,
            cpus_per_task=options.cpus,
            gpus_per_node=options.gpus,
            slurm_partition=options.partition,
            slurm_setup=options.setup,
            slurm_additional_parameters=options.more,
            **({} if options.memory is None else {"mem_gb": options.memory}),
        )
        self._jobs: list[Any] = []

    def start(self, count: int) -> None:
        """Submit further workers, as one array."""
        with self._submit.batch():
            self._jobs += [self._submit.submit(_work, *self._arguments) for _ in range(count)]

    def running(self) -> int:
        """Return how many workers have not ended, those that wait for their turn included."""
        self._jobs = [job for job in self._jobs if not job.done()]
        return len(self._jobs)

    def end(self) -> None:
        """Cancel every worker, and wait a while until Slurm says so."""
        for job in self._jobs:
            job.cancel(check=False)
        until = time.monotonic() + GRACE
        while self.running() and time.monotonic() < until:
            time.sleep(0.2)


def _work(folder: str, threads: int) -> None:
    """Compute cells in a task of a job array."""
    try:
        work(folder, threads, EVERY)
    except KeyboardInterrupt:
        return  # cancelled, pre-empted, or its time is up
